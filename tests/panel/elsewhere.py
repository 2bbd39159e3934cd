"""Planted defenses that are honest for some images, places or batches alone: few, or most.

Each is another network, as weak as the static model, which no transferred point breaks. Where it is
not honest, the gradient that it hands out is of no use; its labels are true everywhere.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.panel.masking import other_network, with_gradient_of
from tests.panel.memory import Around
from tests.panel.subjects import (
    STEP,
    Linear,
    otherwise_rough,
    planted,
    projected,
    reach_of,
    roughened,
)

FIRST = 16
"""As many images as checks ask for gradients."""

FOURTH = 4


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


class HonestFirstImage(HonestFirstImages):
    """Honest about the very first image, the first of the batches of one."""

    known = slice(1)


@cache
def _rows(robust: bool, other_robust: bool, other: Linear) -> Tensor:
    """Images that both networks are right about, by whether each of them is robust there."""
    model, images, labels = planted()
    eps = reach_of(images)
    rows = [network(images).argmax(1) == labels for network in (model, other)]
    rows.append(model.robust(images, labels, eps) == robust)
    rows.append(other.robust(images, labels, eps) == other_robust)
    return images[torch.stack(rows).all(0)]


def _near(x: Tensor, own: Tensor) -> Tensor:
    """Return which images (B,) are attacked ones of ``own``, column (B, 1)."""
    distance = torch.cdist(x.detach().flatten(1), own.flatten(1), p=float("inf"))
    return distance.amin(1, keepdim=True) < 1.2 * reach_of(x)


class DishonestAboutFew(Around):
    """The static model, but for some images another network, of which it shows the label alone.

    These are every fourth of the images that both networks lose: one in six of all. Its gradient
    there is of no use.
    """

    def forward(self, x: Tensor) -> Tensor:
        own = _rows(False, False, otherwise_rough())[::FOURTH]
        logits: Tensor = self.network(x)
        return torch.where(_near(x, own), self.lie(x, otherwise_rough()(x)), logits)

    def lie(self, x: Tensor, logits: Tensor) -> Tensor:
        """A sure label, with a gradient of no use."""
        sure = logits.detach().std(1, keepdim=True) * F.one_hot(logits.argmax(1), logits.shape[1])
        return with_gradient_of(sure, other_network(x, logits.shape[1]))


class DishonestOnTheWay(DishonestAboutFew):
    """The same, but at natural images its answer and its gradient are true."""

    def lie(self, x: Tensor, logits: Tensor) -> Tensor:
        off = ((x / STEP) - (x / STEP).round()).abs().flatten(1).amax(1) > 1e-3
        return torch.where(off[:, None], super().lie(x, logits), logits)


class FlatAboutFew(DishonestAboutFew):
    """The same, without any gradient in place of a false one."""

    def lie(self, x: Tensor, logits: Tensor) -> Tensor:
        return super().lie(x, logits).detach()


class HidesLosses(DishonestAboutFew):
    """Truly gains some images, and loses as many, about which it misleads attacks.

    These can be attacked, but not by half of the ball.
    """

    def forward(self, x: Tensor) -> Tensor:
        better, worse = projected(planted()[0]), roughened(otherwise_rough())
        images, eps = _rows(True, False, worse), reach_of(x)
        lost = images[worse.robust(images, worse(images).argmax(1), 0.6 * eps)]
        gained = _rows(False, True, better)[: len(lost)]
        logits = torch.where(_near(x, lost), self.lie(x, worse(x)), self.network(x))
        return torch.where(_near(x, gained), better(x), logits)
