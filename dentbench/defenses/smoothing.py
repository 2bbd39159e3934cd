"""Randomized smoothing at test time: the probabilities under Gaussian noise are averaged.

Source: Cohen et al., ICML 2019 (arXiv 1902.02918), whose classifier answers with the majority; the
mean of the probabilities, which has a gradient, and the attack by the mean gradient over draws are
those of Salman et al., NeurIPS 2019 (arXiv 1906.04584). There the network is trained under noise.
Nothing is certified here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Smoothing:
    """Answers with the logarithm of the mean probabilities of noisy images.

    ``network`` maps images (B, C, H, W) to logits (B, classes). ``sigma``: of the Gaussian noise,
    in units of the [0, 1] pixel range; noisy images are not clipped. ``draws``: how many. The noise
    is the adaptation: it does not depend on the images. Random numbers are torch's on their device.
    """

    separable = True

    def __init__(self, network: nn.Module, *, sigma: float = 0.06, draws: int = 8) -> None:
        self.network = network
        self.sigma = sigma
        self.draws = draws

    def adapt(self, x: Tensor) -> Tensor:
        """Return the noise (B, draws, C, H, W) for images (B, C, H, W)."""
        shape = (len(x), self.draws, *x.shape[1:])
        return self.sigma * torch.randn(shape, dtype=x.dtype, device=x.device)

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        """Return the same: it does not depend on the images, so the gradient is exact."""
        del last
        return self.adapt(x)

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        """Return the log mean probabilities (B, classes) of images under that noise."""
        noisy = (x[:, None] + adaptation).flatten(0, 1)
        logits: Tensor = self.network(noisy)
        logs = logits.log_softmax(1).view(*adaptation.shape[:2], -1)
        return logs.logsumexp(1) - math.log(self.draws)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the log mean probabilities (B, classes) of images."""
        return self.predict(x, self.adapt(x))
