"""Batch normalization with the statistics of the test batch; nothing is optimized.

Source: Schneider et al., NeurIPS 2020 (arXiv 2006.16971).
"""

from __future__ import annotations

from torch import Tensor, nn

from dentbench.adapt.adaptation import Adaptation
from dentbench.adapt.dent import Dent
from dentbench.spec.evaluation import DentSpec


class Norm(nn.Module):
    """Dent's batch-wise layers before the first update: all that is left is their statistics.

    They are part of ``predict``, as in dent, so that there is nothing to hand in: every
    adaptation is the same. ``model`` maps images (B, C, H, W) to logits (B, classes); it is
    copied. ``spec``: of dent, for its ``statistics``. Raises
    :class:`~dentbench.errors.ModelError` for a model without BatchNorm2d.
    """

    def __init__(self, model: nn.Module, spec: DentSpec) -> None:
        super().__init__()
        self.dent = Dent(model, spec, prepare=False)

    def adapt(self, x: Tensor) -> Adaptation:
        """Return the layers' own scales and shifts."""
        del x
        return self.dent.start()

    def unroll(self, x: Tensor, last: int | None = None) -> Adaptation:
        """Return the same: it does not depend on the images, so the gradient is exact."""
        del last
        return self.adapt(x)

    def predict(self, x: Tensor, adaptation: Adaptation) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) under their own statistics."""
        return self.dent.predict(x, adaptation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes)."""
        return self.predict(x, self.adapt(x))


def medbn(model: nn.Module) -> Norm:
    """Return the defense whose statistics are the medians of the batch.

    Source: Park et al., CVPR 2024 (arXiv 2403.19326), and its code
    (ml-postech/MedBN-robust-test-time-adaptation): medians, and mean squared distances from them.
    Their protocol poisons batch mates.
    """
    return Norm(model, DentSpec(mode="batch", statistics="median"))


def norm(model: nn.Module, *, share: float = 1.0) -> Norm:
    """Return the defense; ``share`` in (0, 1] of mean and variance are the batch's own."""
    return Norm(model, DentSpec(mode="batch", statistics=f"mix:{share}"))
