"""The base of defenses that change the image: the change is their adaptation."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Preprocessing:
    """A defense that shows its network a changed image in place of each image.

    ``network`` maps images (B, C, H, W) to logits (B, classes); it is used as it is, not copied.
    The difference to the images is the adaptation, a constant, so that the gradient of an answer is
    the network's at the image that it is shown, as under BPDA (arXiv 1802.00420). That of
    :meth:`unroll` goes through the change too, smooth stand-ins taking the place of steps without a
    gradient.
    """

    separable = True

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def change(self, x: Tensor) -> Tensor:
        """Return the network's inputs (B, C, H, W) for images in [0, 1], differentiable in them."""
        raise NotImplementedError

    def adapt(self, x: Tensor) -> Tensor:
        """Return the change (B, C, H, W) of a batch of images (B, C, H, W) in [0, 1]."""
        return self.unroll(x.detach()).detach()

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        """Return the same as a function of ``x`` with a gradient; ``last`` changes nothing here."""
        del last
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            return self.change(x) - x

    def preprocess(self, x: Tensor, adaptation: Tensor) -> Tensor:
        """Return the network's inputs (B, C, H, W)."""
        return x + adaptation

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        """Return the logits (B, classes) of images plus ``adaptation``."""
        logits: Tensor = self.network(self.preprocess(x, adaptation))
        return logits

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images after changing them."""
        return self.predict(x, self.adapt(x))
