"""Probes of the published gradient: is it there, is it true, is it exact, does it climb?

A defense may be honest for some images or places of a batch alone, so all B are asked, by 4 B
single-image calls; the exact gradient, where the defense unrolls, is that of b = min(B, 16) images.
The ascent is in ``climbing.py``.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.attacks import checks
from dentbench.attacks.base import Classifier, margins
from dentbench.attacks.checks import Check
from dentbench.attacks.probes.base import IMAGES, Probe, gradient_of
from dentbench.attacks.probes.climbing import DRAWS, STEPS, Climb
from dentbench.stats import more_often_than

COSINE: Final = 0.9
"""The least mean cosine of the published with the exact gradient."""

SHORT: Final = 0.05
"""The length of a short step, as a share of eps."""

KEPT: Final = 0.5
"""The least share of the rise that a gradient promises which a short step along it must bring."""

POOR: Final = 0.2
"""The share of images that a step may bring less: of those that share statistics, one in six."""

FAINT: Final = 0.01
"""A gradient shorter than this share of the median one promises too little to be measured."""

LEVEL: Final = 0.01
"""The p-value below which more images than :data:`POOR` are no chance."""


def gradients(probe: Probe, *, random: bool) -> tuple[Check, ...]:
    """Look at the published gradient of the margin, which does not saturate.

    ``random``: whether answers are, which hides what a step brings on a single image.
    """
    defense: Any = probe.make()
    x = probe.images
    gradient = gradient_of(defense, x, probe.labels)
    flat = torch.zeros_like(x).flatten(1) if gradient is None else gradient.flatten(1)
    share = float(useless(flat).double().mean())
    sentence = (
        "the published gradient is finite and not zero"
        if not share
        else f"the published gradient is zero or not finite for {100 * share:.0f}% of the images: "
        "attacks that follow it do nothing there"
    )
    alive = Check(checks.GRADIENT, share == 0, share, sentence)
    flat = torch.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
    exact = _exact_gradient(probe, defense, flat[:IMAGES])
    # A stale gradient, which that check tells, is off on many a single image.
    by_image = not random and exact.passed is not False
    return alive, _true_gradient(probe, defense, flat, by_image=by_image), exact


def useless(flat: Tensor) -> Tensor:
    """Return which gradients (B, values) are zero or not finite."""
    return ~torch.isfinite(flat).all(1) | (flat == 0).all(1)


@torch.no_grad()
def rises(
    probe: Probe, defense: Classifier, points: Tensor, flat: Tensor, share: float = SHORT
) -> tuple[Tensor, Tensor]:
    """Take a step in the box along gradients (B, values), both ways, of a ``share`` of eps.

    Return by how much the margins (B,) at ``points`` rise, and by how much they were to rise.
    """
    length = flat.double().norm(dim=1, keepdim=True).clamp_min(1e-12).to(flat)  # squares may be inf
    size = share * probe.threat.eps * (flat.shape[1] ** 0.5 if probe.threat.norm == "Linf" else 1)
    step = (size * flat / length).view_as(points)
    ends = (points + step).clamp(0, 1), (points - step).clamp(0, 1)
    ahead, behind = (margins(defense(end), probe.labels) for end in ends)
    promised = (flat * (ends[0] - ends[1]).flatten(1)).sum(1)
    return (ahead - behind) / 2, promised / 2


@torch.no_grad()
def _true_gradient(probe: Probe, defense: Classifier, flat: Tensor, *, by_image: bool) -> Check:
    """Take a short step along the gradient, both ways: does the margin rise as promised?"""
    length = flat.double().norm(dim=1)
    if not bool((length > 0).any()):
        return Check(checks.TRUE_GRADIENT, None, None, "there is no gradient to follow")
    if not probe.threat.eps:
        return Check(checks.TRUE_GRADIENT, None, None, "eps is zero")
    rise, promised = rises(probe, defense, probe.images, flat)
    kept = float(rise.sum() / promised.sum().clamp_min(1e-12))
    plain = length > FAINT * length.median()
    poor, total = int((plain & (rise < KEPT * promised)).sum()), int(plain.sum())
    many = by_image and more_often_than(poor, total, POOR) < LEVEL
    passed = kept >= KEPT and not many
    sentence = (
        f"a short step along the published gradient brings {100 * kept:.0f}% of the rise that it "
        "promises"
    )
    if many:
        sentence += f", and less than half of it on {poor} of {total} images"
    if not passed:
        sentence += ": it is not the gradient of the answers that are judged"
    return Check(checks.TRUE_GRADIENT, passed, kept, sentence)


def _exact_gradient(probe: Probe, defense: Any, flat: Tensor) -> Check:
    """Compare the published with the unrolled gradient, where the defense has that."""
    if not (hasattr(defense, "unroll") and hasattr(defense, "predict")):
        return Check(checks.EXACT_GRADIENT, None, None, "the defense offers no unrolled gradient")
    last = {"last": probe.steps} if probe.steps else {}  # dent then needs the memory of one step
    exact = gradient_of(lambda x: defense.predict(x, defense.unroll(x, **last)), *probe.few)
    other = torch.zeros_like(flat) if exact is None else exact.flatten(1)
    other = torch.nan_to_num(other, nan=0.0, posinf=0.0, neginf=0.0)
    cosine = float(F.cosine_similarity(flat, other, dim=1).mean())
    passed = cosine >= COSINE
    sentence = f"the published gradient has a mean cosine of {cosine:.2f} with the exact gradient"
    if not passed:
        sentence += ": it is stale; the protocol unrolled follows the exact gradient"
    return Check(checks.EXACT_GRADIENT, passed, cosine, sentence)


def ascent(climbed: Climb, chance: Tensor) -> Check:
    """Compare :data:`STEPS` steps along the published gradient with the best of random points.

    ``climbed``: the ascent; ``chance`` (draws, b): the margins at the random points.
    """
    best = float(chance.amax(0).mean())
    after = {count: float(climbed.best[count].mean()) for count in (0, 5, STEPS)}
    least = max(after[0], best)
    passed = after[STEPS] > least + 1e-6 * max(abs(least), 1.0)
    numbers = (
        f"the mean margin is {after[0]:.3g} at the images, {best:.3g} at the best of {DRAWS} "
        f"random points, {after[5]:.3g} after 5 and {after[STEPS]:.3g} after {STEPS} steps"
    )
    bad = "; following the gradient is no better than guessing"
    return Check(checks.ASCENT, passed, after[STEPS] - least, numbers + ("" if passed else bad))
