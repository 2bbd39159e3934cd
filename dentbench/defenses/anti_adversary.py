"""The anti-adversary layer: an image is moved until the network is surer of what it sees.

Source: Alfarra et al., AAAI 2022 (arXiv 2103.14347), and its code
(MotasemAlfarra/Combating-Adversaries-with-Anti-Adversaries), whose k is 2 and alpha 0.15.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.defenses.shifting import Shifting


class AntiAdversary(Shifting):
    """Adds what lowers the cross-entropy of the class predicted for the unmoved image.

    ``steps`` signed gradient steps of ``alpha`` in units of the [0, 1] pixel range. As in the
    released code, what is added has no bound and may leave the pixel range.
    """

    separable = True

    def __init__(self, network: torch.nn.Module, *, steps: int = 2, alpha: float = 0.15) -> None:
        super().__init__(network)
        self.steps = steps
        self.alpha = alpha

    def shift(self, x: Tensor) -> Tensor:
        """Return what is added (B, C, H, W) to images (B, C, H, W) in [0, 1]."""
        added = torch.zeros_like(x)
        predicted: Tensor | None = None
        for _ in range(self.steps):
            leaf = added.requires_grad_()
            logits = self.network(x + leaf)
            predicted = logits.argmax(1) if predicted is None else predicted
            loss = F.cross_entropy(logits, predicted, reduction="sum")
            (grad,) = torch.autograd.grad(loss, leaf)
            added = leaf.detach() - self.alpha * grad.sign()
        return added
