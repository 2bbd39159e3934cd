"""Dent's adaptation to a batch, as a value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Adaptation:
    """Dent's adaptation to one batch, handed to :meth:`~dentbench.adapt.dent.Dent.predict`.

    ``affine``: scale and shift of all layers in one tensor, (P,) batch-wise or where only the
    blur adapts, (B, P) instance-wise; None after 0 steps, when the layers are the model's own.
    ``losses`` (steps,): the loss before each update. ``sigma`` >= 0, in pixels, of the blur: () or
    instance-wise (B,); None without a blur. Where it diverged they are NaN or infinite, and so are
    the logits, which is no answer.
    """

    affine: Tensor | None
    losses: Tensor
    sigma: Tensor | None = None


def divergence(adaptation: Adaptation) -> str:
    """Return in words where an adaptation diverged, "" where it did not."""
    losses = adaptation.losses
    bad = torch.isfinite(losses).logical_not().nonzero()
    if not len(bad):
        return ""
    step = int(bad[0])
    return (
        f"dent diverges: its loss is {float(losses[step])} before update {step + 1} of "
        f"{len(losses)}; try a lower learning rate (--lr), unless the model's own logits are "
        "not finite"
    )
