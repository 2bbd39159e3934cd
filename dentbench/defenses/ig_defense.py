"""IG-Defense: only the features that matter for the predicted class are left.

Source: Kulkarni and Weng, ECCV 2024 (arXiv 2409.15190), and its code
(Trustworthy-ML-Lab/Interpretability-Guided-Defense). There a feature's importance for a class is
how much that class's logit changes, on the mean over training images, when it is left out (LO-IR).
In the last layer that is |weight| times the mean feature; with no training images at hand ours
takes the mean for the same everywhere. Their protocol is AutoAttack on both passes.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from dentbench.defenses.features import Classified

SHARPNESS = 100.0
"""The factor of logits before their softmax chooses the mask, as in the released code."""


class Masking:
    """Answers twice: a first pass on a noisy image chooses which features the second one keeps.

    ``keep`` in (0, 1]: the share of features that is left for a class (theirs: 50 of 512).
    ``sigma``: of the first pass's Gaussian noise, in units of the pixel range. The mask is the
    adaptation; as in the released code the gradient of an answer goes through it. Random numbers
    are torch's on the images' device. Raises :class:`~dentbench.errors.ModelError` for a network
    without a linear layer.
    """

    separable = True

    def __init__(
        self, network: nn.Module, *, keep: float = 0.1, sigma: Fraction = Fraction(4, 255)
    ) -> None:
        self.network = network
        self.classified = Classified(network, "ig-defense")
        self.sigma = float(sigma)
        weight = self.classified.layer.weight.detach()
        kept = max(1, round(keep * weight.shape[1]))
        order = weight.abs().sort(dim=1, descending=True, stable=True).indices
        self.masks = torch.zeros_like(weight).scatter_(1, order[:, :kept], 1.0)

    def adapt(self, x: Tensor) -> Tensor:
        """Return the masks (B, D) of images (B, C, H, W)."""
        with torch.no_grad():
            return self._mask(x)

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        """Return the same as a function of ``x`` with a gradient."""
        del last
        with torch.inference_mode(False), torch.enable_grad():
            return self._mask(x.clone() if x.is_inference() else x)

    def _mask(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + self.sigma * torch.randn_like(x))
        self.classified.require_logits(logits)
        mask: Tensor = (SHARPNESS * logits).softmax(1) @ self.masks.to(logits)
        return mask

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        """Return the logits (B, classes) of images whose features are masked so."""
        return self.classified.masked(x, adaptation)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images."""
        wanted = torch.is_grad_enabled() and x.requires_grad
        return self.predict(x, self.unroll(x) if wanted else self.adapt(x))
