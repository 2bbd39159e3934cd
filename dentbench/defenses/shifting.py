"""What defenses that move the image have in common: the shift is their adaptation, a constant."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Shifting:
    """A defense that adds something of its own to each image before the network sees it.

    ``network`` maps images (B, C, H, W) to logits (B, classes); it is used as it is, not copied.
    The gradient of an answer goes through the last forward only, as in the released codes; the
    steps are signs, which are constant almost everywhere, so there is nothing to unroll.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def shift(self, x: Tensor) -> Tensor:
        """Return what is added (B, C, H, W) to images (B, C, H, W), without a graph to them."""
        raise NotImplementedError

    def adapt(self, x: Tensor) -> Tensor:
        """Return what is added (B, C, H, W) to a batch of images (B, C, H, W) in [0, 1]."""
        with torch.inference_mode(False), torch.enable_grad():
            return self.shift(x.clone() if x.is_inference() else x.detach()).detach()

    def preprocess(self, x: Tensor, adaptation: Tensor) -> Tensor:
        """Return what the network is shown (B, C, H, W)."""
        return x + adaptation

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        """Return the logits (B, classes) of images under a shift of that size."""
        logits: Tensor = self.network(self.preprocess(x, adaptation))
        return logits

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images after moving them."""
        return self.predict(x, self.adapt(x))
