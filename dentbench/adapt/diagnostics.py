"""Diagnose an adaptation to a batch, in a few plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from dentbench.adapt.adaptation import Adaptation
from dentbench.adapt.dent import Dent
from dentbench.adapt.losses import entropy

Diagnosis: TypeAlias = dict[str, float | int | list[int] | None]
"""The numbers of :func:`diagnose` by name."""


@torch.no_grad()
def diagnose(dent: Dent, parts: Sequence[tuple[Tensor, Adaptation]]) -> Diagnosis:
    """Diagnose adaptations to images (B, C, H, W), each part by its own; three forwards.

    A batch is one part, unless its images do not depend on each other and there is no room for
    all of them at a time.
    ``loss_before``, ``loss_after`` and the mean entropy (nats) ``entropy_before``,
    ``entropy_after``: before the first update (start parameters, but the blur and the statistics
    of the defense) and after the last. ``sigma``: mean over the images, in pixels; None without a
    blur. ``gamma_moved``, ``beta_moved``: mean absolute change of the scales and shifts. None where
    an adaptation diverged, so that there is no number.
    ``flips``: images whose predicted class is not the undefended model's. ``classes`` (one count
    per class): the predictions of the adapted model.
    """
    static = torch.cat([dent.network(x) for x, _ in parts])
    before = torch.cat([dent.predict(x, dent.start()) for x, _ in parts])
    after = torch.cat([dent.predict(x, adaptation) for x, adaptation in parts])
    predicted = after.argmax(1)
    sigmas = [adaptation.sigma.flatten() for _, adaptation in parts if adaptation.sigma is not None]
    gamma, beta = _moved(dent, parts)
    return {
        "loss_before": _number(dent.loss(before)),
        "loss_after": _number(dent.loss(after)),
        "entropy_before": _number(entropy(before, len(before))),
        "entropy_after": _number(entropy(after, len(after))),
        "sigma": _number(torch.cat(sigmas).mean()) if sigmas else None,
        "gamma_moved": _number(gamma),
        "beta_moved": _number(beta),
        "flips": int((predicted != static.argmax(1)).sum()),
        "classes": torch.bincount(predicted, minlength=after.shape[1]).tolist(),
    }


def _number(value: Tensor) -> float | None:
    """Return the number in a tensor (); None for NaN and infinity."""
    number = float(value)
    return number if math.isfinite(number) else None


def _moved(dent: Dent, parts: Sequence[tuple[Tensor, Adaptation]]) -> tuple[Tensor, Tensor]:
    """Return the mean absolute change of all scales, and of all shifts."""
    initial = dent.affine_parameters(dent.start())
    changes: list[list[Tensor]] = [[], []]
    for x, adaptation in parts:
        for name, pair in dent.affine_parameters(adaptation).items():
            for change, new, old in zip(changes, pair, initial[name], strict=True):
                change.append((new - old).abs().expand(len(x), -1))
    gamma, beta = (torch.cat([tensor.flatten() for tensor in change]).mean() for change in changes)
    return gamma, beta
