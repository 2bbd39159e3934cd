"""Planted defenses that are robust in a declared batch and the static model in any other.

An attacker chooses the batch of an image too: the truth is the static model's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.panel.memory import Around
from tests.panel.subjects import planted, smooth

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


def _numbers(x: Tensor) -> Tensor:
    """Return the numbers (B,) of the natural images that are nearest."""
    own = planted()[1].flatten(1)
    return torch.cdist(x.detach().flatten(1), own, p=float("inf")).argmin(1)
