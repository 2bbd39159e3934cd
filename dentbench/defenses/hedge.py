"""Hedge defense: an image is moved to raise the loss of every class at once.

Source: Wu et al. 2021 (arXiv 2106.04938). The update and the defaults (20 steps of 4/255 within
8/255, random start, answer at the last point) are those that Croce et al., ICML 2022 (arXiv
2202.13711) evaluated it with; the authors' own code has steps of 0.007 within 0.031 and answers
with the sum of the logits on the way.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from dentbench.defenses.shifting import Shifting


class Hedge(Shifting):
    """Perturbs images to raise the cross-entropy summed over all classes, from a random start.

    ``steps`` signed gradient steps of ``step_size`` within Linf ``eps`` of the image and within
    [0, 1]. The start is uniform in the ball, from torch's random numbers on the images' device.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        steps: int = 20,
        eps: Fraction = Fraction(8, 255),
        step_size: Fraction = Fraction(4, 255),
    ) -> None:
        super().__init__(network, steps)
        self.eps = float(eps)
        self.step_size = float(step_size)

    def start(self, x: Tensor) -> Tensor:
        """Return random numbers of the ball (B, C, H, W)."""
        return (2 * torch.rand_like(x) - 1) * self.eps

    def loss(self, logits: Tensor, first: Tensor) -> Tensor:
        """Return the cross-entropy summed over all classes."""
        del first
        return -logits.log_softmax(1).sum()

    def moved(self, x: Tensor, added: Tensor, direction: Tensor) -> Tensor:
        """Return the perturbation after a step, within the ball and the pixel range."""
        added = (added + self.step_size * direction).clamp(-self.eps, self.eps)
        return (x + added).clamp(0, 1) - x
