"""ET3: an image is moved down the energy of the network's logits.

Source: Mirza et al., CVPR 2026 (arXiv 2603.26984), and its code
(OmnAI-Lab/Energy-Guided-Test-Time-Defense, ``classifier/defense.py``), whose ImageNet run has alpha
2.5 and a radius of 5 in L2 at 224 x 224 pixels. Their protocols are transfer from the undefended
network and APGD-T with the perturbation held constant ("BPDA-style"); no gradient of theirs goes
through the step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dentbench.defenses.shifting import Shifting

REFERENCE = 3 * 224 * 224
"""The numbers of an image for which alpha and the radius are given."""


class ET3(Shifting):
    """Perturbs images to lower the energy, -logsumexp of the logits, by normalized gradient steps.

    ``steps`` steps of L2 length ``alpha`` within L2 ``radius`` of the image and within [0, 1]. Both
    are lengths at 224 x 224 pixels in three channels; for an image of other size they are scaled
    by the square root of its share of numbers, which keeps the change per pixel and is ours.
    """

    def __init__(
        self, network: torch.nn.Module, *, steps: int = 1, alpha: float = 2.5, radius: float = 5.0
    ) -> None:
        super().__init__(network, steps)
        self.alpha = alpha
        self.radius = radius

    def start(self, x: Tensor) -> Tensor:
        """Return nothing added (B, C, H, W)."""
        return torch.zeros_like(x)

    def loss(self, logits: Tensor, first: Tensor) -> Tensor:
        """Return the energies' negative, summed."""
        del first
        return logits.logsumexp(1).sum()

    def direction(self, gradient: Tensor, *, differentiable: bool) -> Tensor:
        """Return the gradient (B, C, H, W) of unit L2 norm: it needs no stand-in."""
        del differentiable
        return gradient / (_lengths(gradient) + 1e-12)

    def moved(self, x: Tensor, added: Tensor, direction: Tensor) -> Tensor:
        """Return the perturbation after a step, within the pixel range and the ball."""
        scale = (x[0].numel() / REFERENCE) ** 0.5
        added = (x + added + self.alpha * scale * direction).clamp(0, 1) - x
        factor: Tensor = (self.radius * scale / (_lengths(added) + 1e-8)).clamp(max=1)
        return added * factor


def _lengths(values: Tensor) -> Tensor:
    """Return the L2 length (B, 1, 1, 1) of each image's values, with a gradient at zero too."""
    squares = values.flatten(1).square().sum(1)
    lengths = squares.clamp_min(1e-30).sqrt()
    return lengths.view(-1, 1, 1, 1)
