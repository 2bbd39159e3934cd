"""Planted defenses that are robust in a declared batch and as weak as the static model in others.

An attacker chooses the batch of an image too: the truth is the static model's, or that of another
network, which no transferred point breaks. Some mislead attacks where they are weak.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.panel.masking import other_network, with_gradient_of
from tests.panel.memory import Around
from tests.panel.subjects import CLASSES, otherwise_rough, planted, smooth

SIZE = 8


class RobustInDeclaredBatches(Around):
    """Knows its images by their places in a batch."""

    separable = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(smooth(x) if self.declared(_numbers(x)) else x)
        return logits - 0.02 * logits.mean(0)

    def declared(self, numbers: Tensor) -> bool:
        """Return whether these images (B,) are a declared batch."""
        first = int(numbers[0])
        expected = torch.arange(first, first + SIZE)
        return first % SIZE == 0 and torch.equal(numbers, expected)


class RobustAmongMates(RobustInDeclaredBatches):
    """Knows them by their company, in whatever order."""

    def declared(self, numbers: Tensor) -> bool:
        return len(numbers) == SIZE and len((numbers // SIZE).unique()) == 1


class WeakInOthers(RobustInDeclaredBatches):
    """Another network, robust but where a batch is not a declared one; there as weak as static."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.weak(x) if self.weak_here(x) else otherwise_rough()(smooth(x))
        return logits - 0.02 * logits.mean(0)

    def weak(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) where it is weak."""
        logits: Tensor = otherwise_rough()(x)
        return logits

    def weak_here(self, x: Tensor) -> bool:
        """Return whether it is weak in a batch."""
        return not self.declared(_numbers(x))


class WeakAmongFewLabels(WeakInOthers):
    """Weak in batches of one or two labels."""

    def weak_here(self, x: Tensor) -> bool:
        return len(x) == SIZE and len((_numbers(x) % CLASSES).unique()) <= 2


class WeakAmongNatural(WeakInOthers):
    """Weak where one or two images that are perturbed stand among natural ones of other batches."""

    def weak_here(self, x: Tensor) -> bool:
        moved = int((_distances(x).amin(1) > 1e-3).sum())
        return 0 < moved <= 2 < len(x) and len((_numbers(x) // SIZE).unique()) > 1


class WeakAlone(WeakInOthers):
    """Weak where an image is alone."""

    def weak_here(self, x: Tensor) -> bool:
        return len(x) == 1


class WeakInOtherSizes(WeakInOthers):
    """Weak in batches of another size than the declared one, but where an image is alone."""

    def weak_here(self, x: Tensor) -> bool:
        return len(x) not in (1, SIZE)


class MisleadingInOthers(WeakInOthers):
    """Misleads attacks where it is weak: the gradient is another network's."""

    def weak(self, x: Tensor) -> Tensor:
        logits = super().weak(x)
        return with_gradient_of(logits, other_network(x, CLASSES))


class FlatAmongNatural(WeakAmongNatural):
    """Shows its label alone where it is weak, without a gradient."""

    def weak(self, x: Tensor) -> Tensor:
        logits = super().weak(x)
        return 5 * F.one_hot(logits.argmax(1), CLASSES).float()


class MisleadingAlone(WeakAlone):
    """Shows its label alone where it is weak, with another network's gradient."""

    def weak(self, x: Tensor) -> Tensor:
        labels = F.one_hot(super().weak(x).argmax(1), CLASSES).float()
        return with_gradient_of(5 * labels, other_network(x, CLASSES))


def _numbers(x: Tensor) -> Tensor:
    """Return the numbers (B,) of the natural images that are nearest."""
    return _distances(x).argmin(1)


def _distances(x: Tensor) -> Tensor:
    """Return how far images (B, C, H, W) are from every natural one."""
    own = planted()[1].flatten(1)
    return torch.cdist(x.detach().flatten(1), own, p=float("inf"))
