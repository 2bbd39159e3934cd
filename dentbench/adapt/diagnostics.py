"""What an adaptation did to a batch, in a few plain numbers."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from dentbench.adapt.dent import Adaptation, Dent
from dentbench.adapt.losses import entropy

Diagnosis: TypeAlias = dict[str, float | int | list[int] | None]
"""The numbers of :func:`diagnose` by name."""


@torch.no_grad()
def diagnose(dent: Dent, x: Tensor, adaptation: Adaptation) -> Diagnosis:
    """Return what ``adaptation`` did to the images ``x`` (B, C, H, W); costs three forwards.

    ``loss_before``, ``loss_after`` and the mean entropy (nats) ``entropy_before``,
    ``entropy_after``: before the first update (start parameters, but the blur and the statistics
    of the defense) and after the last. ``sigma``: mean over the images, in pixels; None without a
    blur. ``gamma_moved``, ``beta_moved``: mean absolute change of the scales and shifts.
    ``flips``: images whose predicted class is not the undefended model's. ``classes`` (one count
    per class): the predictions of the adapted model.
    """
    static = dent.network(x)
    before, after = (dent.predict(x, one) for one in (dent.start(), adaptation))
    predicted = after.argmax(1)
    gamma, beta = _moved(dent, adaptation)
    return {
        "loss_before": dent.loss(before).item(),
        "loss_after": dent.loss(after).item(),
        "entropy_before": entropy(before, len(x)).item(),
        "entropy_after": entropy(after, len(x)).item(),
        "sigma": None if adaptation.sigma is None else adaptation.sigma.mean().item(),
        "gamma_moved": gamma,
        "beta_moved": beta,
        "flips": int((predicted != static.argmax(1)).sum()),
        "classes": torch.bincount(predicted, minlength=after.shape[1]).tolist(),
    }


def _moved(dent: Dent, adaptation: Adaptation) -> tuple[float, float]:
    """Return the mean absolute change of all scales, and of all shifts."""
    initial = dent.affine_parameters(dent.start())
    changes = [
        [abs(new - old) for new, old in zip(pair, initial[name], strict=True)]
        for name, pair in dent.affine_parameters(adaptation).items()
    ]
    gamma, beta = (torch.cat(parts, -1).mean().item() for parts in zip(*changes, strict=True))
    return gamma, beta
