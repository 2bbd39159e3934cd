"""Planted defenses that are honest for some images, places or batches alone: the first, or half.

Each is another network, as weak as the static model, which no transferred point breaks. Where it is
not honest, the gradient that it hands out is of no use; its labels are true everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.panel.masking import other_network, with_gradient_of
from tests.panel.memory import Around
from tests.panel.subjects import otherwise_rough, planted, reach_of

FIRST = 16
"""As many images as checks ask for gradients."""


class MisleadingElsewhere(Around):
    """Misleads all but the images that it knows, by their contents or their places."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = otherwise_rough()(x)
        misled = with_gradient_of(logits, other_network(x, logits.shape[1]))
        return torch.where(self.honest(x)[:, None], logits, misled)

    def honest(self, x: Tensor) -> Tensor:
        """Return for which images (B,) its gradient is its own."""
        raise NotImplementedError


class HonestFirstImages(MisleadingElsewhere):
    """Honest about the first images of the first batch, and points near them."""

    known = slice(FIRST)

    def honest(self, x: Tensor) -> Tensor:
        own = planted()[1][self.known]
        distance = torch.cdist(x.detach().flatten(1), own.flatten(1), p=float("inf"))
        return distance.amin(1) < 1.2 * reach_of(x)


class HonestFirstBatch(HonestFirstImages):
    """Honest about the first declared batch of 24."""

    known = slice(24)


class HonestHalf(HonestFirstImages):
    """Honest about every other image."""

    known = slice(0, None, 2)


class HonestFirstPlaces(MisleadingElsewhere):
    """Honest about what stands at the first places of a batch."""

    def honest(self, x: Tensor) -> Tensor:
        return torch.arange(len(x), device=x.device) < FIRST
