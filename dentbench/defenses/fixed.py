"""The base of defenses that adapt nothing: their adaptation is empty."""

from __future__ import annotations

from torch import Tensor, nn


class Fixed:
    """A defense whose answer is one function of the images, its gradient exact.

    ``network`` maps images (B, C, H, W) to logits (B, classes); it is used as it is, not copied.
    ``adapt``, ``unroll`` and ``predict`` are there, so that every protocol can be run.
    """

    separable = True

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def answer(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        raise NotImplementedError

    def adapt(self, x: Tensor) -> Tensor:
        """Return nothing (B, 0) for a batch of images (B, C, H, W)."""
        return x.new_zeros(len(x), 0)

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        """Return the same: it does not depend on the images, so the gradient is exact."""
        del last
        return self.adapt(x)

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        """Return the logits (B, classes) of images."""
        del adaptation
        return self.answer(x)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images."""
        return self.answer(x)
