"""A small network to be computed in many ways, and what attacks it briefly."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from dentbench.evaluation.inputs import RunInputs
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DataSpec, EvalSpec, ModelSpec


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


def attacked_network(count: int, iterations: int, **how: Any) -> tuple[RunInputs, EvalSpec]:
    """Return the network with so many images that it is right about, and a spec of an attack."""
    model, images = network(), torch.rand(count, 3, 6, 6)
    static = EvalSpec(
        model=ModelSpec(name="net", sha256="0" * 64),
        data=DataSpec(name="noise", sha256="0" * 64, first=0, count=count),
        batches=BatchPlan(size=8),
        attack=AttackSpec(name="quick", eps=Fraction(1, 100), iterations=iterations),
        **how,
    )
    return RunInputs(network=model, images=images, labels=model(images).argmax(1)), static
