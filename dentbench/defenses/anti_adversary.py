"""The anti-adversary layer: an image is moved until the network is surer of its prediction.

Source: Alfarra et al., AAAI 2022 (arXiv 2103.14347), and its code
(MotasemAlfarra/Combating-Adversaries-with-Anti-Adversaries), whose k is 2 and alpha 0.15.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.defenses.shifting import Shifting


class AntiAdversary(Shifting):
    """Perturbs images to lower the cross-entropy of the class predicted for the clean image.

    ``steps`` signed gradient steps of ``alpha`` in units of the [0, 1] pixel range. As in the
    released code, the perturbation has no bound and may leave the pixel range.
    """

    def __init__(self, network: torch.nn.Module, *, steps: int = 2, alpha: float = 0.15) -> None:
        super().__init__(network, steps)
        self.alpha = alpha

    def start(self, x: Tensor) -> Tensor:
        """Return nothing added (B, C, H, W)."""
        return torch.zeros_like(x)

    def loss(self, logits: Tensor, first: Tensor) -> Tensor:
        """Return the log-probability of the class predicted for the unmoved image, summed."""
        return -F.cross_entropy(logits, first, reduction="sum")

    def moved(self, x: Tensor, added: Tensor, direction: Tensor) -> Tensor:
        """Return the perturbation after a step."""
        del x
        return added + self.alpha * direction
