"""Planted defenses that are robust where steps of an attack by signs end, and nowhere else.

Elsewhere each is another network, as weak as the static model. An attacker who moves some pixels
by a little less than the others breaks that one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.panel.memory import Around
from tests.panel.subjects import STEP, otherwise_rough, planted, projected, reach_of


class RobustWhereAllMove(Around):
    """Robust where half of the pixels, or more, have moved as far as any."""

    def forward(self, x: Tensor) -> Tensor:
        robust = projected(planted()[0])(x)
        return torch.where(self.there(x)[:, None], robust, self.weak(x))

    def weak(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) anywhere else."""
        logits: Tensor = otherwise_rough()(x)
        return logits

    def there(self, x: Tensor) -> Tensor:
        """Return at which points (B,) it is robust."""
        moved = _moved(x)
        most = moved.amax(1, keepdim=True)
        return ((moved >= 0.98 * most).float().mean(1) >= 0.5) & (most[:, 0] > 1e-4)


class RobustWhereAllMoveInCompany(RobustWhereAllMove):
    """The same, which leans a little on the mean of its batch."""

    separable = False

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - 0.01 * logits.mean(0)


class RobustAtTheEdge(RobustWhereAllMove):
    """Robust where half of the pixels, or more, are at the edge of the ball."""

    def there(self, x: Tensor) -> Tensor:
        return (_moved(x) >= 0.99 * reach_of(x)).float().mean(1) >= 0.5


class RobustOnTheGrid(RobustWhereAllMove):
    """Robust on the grid of natural images and of corners of the ball; it knows no image."""

    def there(self, x: Tensor) -> Tensor:
        off = ((x / STEP) - (x / STEP).round()).abs().flatten(1)
        return (off < 1e-3).float().mean(1) >= 0.5


class RobustAtCorners(RobustWhereAllMove):
    """As a static model: in the place of the other network it is the one that it is around."""

    def weak(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


class Brought(Around):
    """Brings the planted model, and leaves the network that it is around alone."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = planted()[0](x)
        return logits


def _moved(x: Tensor) -> Tensor:
    """Return how far the pixels (B, values) are from those of the nearest natural image."""
    own = planted()[1].flatten(1)
    flat = x.detach().flatten(1)
    nearest = torch.cdist(flat, own, p=float("inf")).argmin(1)
    return (flat - own[nearest]).abs()
