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
    """Adds what raises the cross-entropy summed over all classes, from a random start.

    ``steps`` signed gradient steps of ``step_size`` within Linf ``eps`` of the image and within
    [0, 1]. The start is uniform in the ball, from torch's random numbers on the images' device.
    """

    separable = True

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        steps: int = 20,
        eps: Fraction = Fraction(8, 255),
        step_size: Fraction = Fraction(4, 255),
    ) -> None:
        super().__init__(network)
        self.steps = steps
        self.eps = float(eps)
        self.step_size = float(step_size)

    def shift(self, x: Tensor) -> Tensor:
        """Return what is added (B, C, H, W) to images (B, C, H, W) in [0, 1]."""
        added = (2 * torch.rand_like(x) - 1) * self.eps
        for _ in range(self.steps):
            leaf = added.requires_grad_()
            loss = -self.network(x + leaf).log_softmax(1).sum()
            (grad,) = torch.autograd.grad(loss, leaf)
            added = (leaf.detach() + self.step_size * grad.sign()).clamp(-self.eps, self.eps)
            added = (x + added).clamp(0, 1) - x
        return added
