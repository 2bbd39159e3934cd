"""Indicators that an attack fails, from ascents that were made anyhow.

Source: Carlini et al. 2019 (arXiv 1902.06705) and Pintor et al. 2022 (arXiv 2106.09947); the
bounds are ours.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from dentbench.attacks import checks
from dentbench.attacks.checks import Check
from dentbench.attacks.probes.climbing import DRAWS, SHORT, STEPS, Climbs

LEFT: Final = 0.1
"""The largest share of images that may stay right when every image is within reach."""

SLACK: Final = 1
"""The number of images by which a stronger attack may fall behind a weaker attack."""

LATE: Final = 0.1
"""The largest share of its rise that a loss may make in the last quarter of the steps."""

_RANDOM: Final = "random answers hide it"


def indicate(climbs: Climbs, parts: Tensor | None = None, *, random: bool) -> tuple[Check, ...]:
    """Return the checks; ``random``: whether the defense answers the same question in two ways.

    ``parts`` (b,): the highest margins that ascents in parts of the ball find, if made; infinite
    where attacks are misled there.
    """
    monotone = _monotone(climbs, parts, random)
    return (_large_eps(climbs), monotone, _noise(climbs, random), _risen(climbs))


def _large_eps(climbs: Climbs) -> Check:
    """With every image within reach nothing may stay right."""
    count, total = climbs.whole.right, climbs.whole.best.shape[1]
    passed = count <= LEFT * total
    sentence = f"in the whole box {SHORT} steps along the gradient leave {count} of {total} right"
    if not passed:
        sentence += ", where every other image is within reach: the attack does not attack"
    return Check(checks.LARGE_EPS, passed, count / total, sentence)


def _monotone(climbs: Climbs, parts: Tensor | None, random: bool) -> Check:
    """A larger ball, or more steps, may not leave more images right."""
    if random:
        return Check(checks.MONOTONE, None, None, _RANDOM)
    counts = {
        "half of eps": climbs.half.right,
        "uneven eps": climbs.uneven.right,
        **({} if parts is None else {"parts of the ball": int((parts <= 0).sum())}),
        f"eps and {STEPS} steps": climbs.short.right,
        f"eps and {climbs.full.steps} steps": climbs.full.right,
        "the whole box": climbs.whole.right,
    }
    series = list(counts.values())
    rise = max(later - min(series[:place]) for place, later in enumerate(series) if place)
    listed = ", ".join(f"{count} with {name}" for name, count in counts.items())
    sentence = f"images right: {listed}"
    if rise > SLACK:
        sentence += ": a stronger attack breaks fewer, so the attack misses some"
    return Check(checks.MONOTONE, rise <= SLACK, float(rise), sentence)


def _noise(climbs: Climbs, random: bool) -> Check:
    """Random points of the ball may not break images that the gradient leaves."""
    if random:
        return Check(checks.NOISE, None, None, _RANDOM)
    left = (climbs.short.best[-1] <= 0) & (climbs.full.best[-1] <= 0)
    count = int(((climbs.chance > 0).any(0) & left).sum())
    sentence = f"{DRAWS} random points break {count} of the {int(left.sum())} images that "
    sentence += f"{climbs.full.steps} steps along the gradient leave"
    if count:
        sentence += ": the gradient misleads"
    return Check(checks.NOISE, count == 0, float(count), sentence)


def _risen(climbs: Climbs) -> Check:
    """The loss must have stopped rising at the end, on the images that are still right."""
    best, steps = climbs.full.best, climbs.full.steps
    left = best[-1] <= 0
    if not bool(left.any()):
        return Check(checks.CONVERGED, True, 0.0, f"{steps} steps leave no image right")
    whole = best[-1, left] - best[0, left]
    late = best[-1, left] - best[steps - steps // 4, left]
    share = float(late.sum() / whole.sum().clamp_min(1e-12))
    sentence = f"the last quarter of {steps} steps brings {100 * share:.0f}% of the margin's rise"
    if share > LATE:
        sentence += ": the loss still rises; give the attack more iterations"
    return Check(checks.CONVERGED, share <= LATE, share, sentence)
