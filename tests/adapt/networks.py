"""Networks in float64: with layers of every kind, and without kinks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelsLast(nn.LayerNorm):
    """Layer normalization of (B, C, H, W) over the channels, by a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        moved = input.permute(0, 2, 3, 1)
        return F.layer_norm(moved, self.normalized_shape, self.weight, self.bias, self.eps).permute(
            0, 3, 1, 2
        )


def mixed() -> nn.Module:
    """A network with a layer of every kind, none of them trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.GroupNorm(3, 6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            ChannelsLast(4),
            nn.ReLU(),
            nn.LayerNorm([4, 3, 3], bias=False),
            nn.Flatten(),
            nn.LayerNorm(36),
            nn.Linear(36, 10),
        ).double()
        for layer in network:
            if isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1, 0.3)
                if layer.bias is not None:
                    nn.init.normal_(layer.bias, 0, 0.3)
        network[4].running_mean.normal_()
        network[-1].weight.data *= 4
    return network.eval().requires_grad_(False)


def smooth_network() -> nn.Module:
    """A float64 network without kinks, so that finite differences can be trusted."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.SiLU(),
            nn.Conv2d(4, 5, 3, stride=2),
            nn.BatchNorm2d(5),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, 3),
        )
        for _ in range(10):
            network(torch.rand(16, 1, 6, 6))
        network[-1].weight.data *= 8  # type: ignore[operator,union-attr]
    return network.double().eval()
