"""A small network to be computed in many ways."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def network(flatten: Callable[[Tensor], Tensor] = lambda x: x.flatten(1)) -> nn.Module:
    """Return a network for images (B, 3, 6, 6), which flattens as it is told."""

    class Flatten(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return flatten(x)

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1),
        Flatten(),
        nn.Linear(8 * 36, 10),
    ).eval()
