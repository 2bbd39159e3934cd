"""Probe images one by one: was there a gradient that an attack could follow?

A check of a batch passes a defense that misleads attacks about few of its images, and a gain may
rest on just these. Each image is asked about on its own account: at the image and at a random point
of its ball it needs a gradient, along which a short step, or one across the levels of a defense
that rounds, brings at least half of the rise that it promises; a short ascent along the gradient
must beat random points, and neither these nor ascents in parts of the ball (``shapes.py``) may
break the image, which every attack left right. At random points of these parts a gradient is asked
for too. Where images share an answer, a step moves one group of them, and it is their gradient
together that is true or not. All are misled about where answers jump from point to point
(``jumps.py``), as those of chance that the image itself seeds: who asks often enough finds a lucky
point. For B gray images it costs 475 B single-image answers, in color 523 B, and 80 or 92 B more
for each further group.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier
from dentbench.attacks.probes.base import Probe, gradient_of
from dentbench.attacks.probes.climbing import STEPS, at_random_points, climb
from dentbench.attacks.probes.gradients import KEPT, SHORT, rises, useless
from dentbench.attacks.probes.jumps import jumps
from dentbench.attacks.probes.shapes import best_in_shapes, parts_of

LENGTHS: Final = (SHORT, 0.25)
"""The lengths of the steps, as shares of eps."""

NO_GRADIENT: Final = "have no gradient"
FALSE_GRADIENT: Final = "have one that a short step does not follow"
NO_CLIMB: Final = "are attacked no better than at random"
IN_PARTS: Final = "have no true gradient in a part of the ball"
JUMPS: Final = "have answers that jump from point to point"
BROKEN: Final = "are broken by the check itself"
"""What is wrong with an image that counts as right."""

PARTLY: Final = 0.2
"""The largest share of images at which a gradient in a part of the ball may seem not to be true."""


def misled(probe: Probe, groups: Sequence[Sequence[int]], *, briefly: bool = False) -> list[str]:
    """Return for each of the probe's images what is wrong with it, or "".

    ``groups``: rows of images that a step moves together, if the defense is not separable.
    ``briefly``: not about parts of the ball and jumps, so that it costs 36 B answers.
    """
    x, y = probe.images, probe.labels
    reasons = [""] * len(x)

    def say(rows: Tensor, reason: str) -> None:
        for row in rows.nonzero().flatten().tolist():
            reasons[row] = reason

    chance = at_random_points(probe, x, y)
    climbed = climb(probe, x, y, probe.threat, STEPS).best
    best = torch.maximum(climbed[0], chance.amax(0))
    say(climbed[-1] <= best + 1e-6 * best.abs().clamp_min(1.0), NO_CLIMB)
    if not briefly:
        say(misled_in_parts(probe, groups), IN_PARTS)
    for points in (probe.random_points(x, 0), x):
        gone, false = _gradient_faults(probe, probe.make(), points, groups)
        say(false, FALSE_GRADIENT)
        say(gone, NO_GRADIENT)
    found = [climbed[-1], *chance]
    if not briefly:
        found.append(best_in_shapes(probe, x, y))
        say(jumps(probe), JUMPS)
    say(torch.stack(found).amax(0) > 0, BROKEN)
    return reasons


def misled_in_parts(probe: Probe, groups: Sequence[Sequence[int]]) -> Tensor:
    """Return about which images (B,) attacks are misled at a random point of a part of the ball.

    Of the part where they are most, if they are many: a defense that rounds has a false gradient
    now and then.
    """
    points, defense = probe.random_points(probe.images, 0), probe.make()
    worst = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for part in parts_of(probe, probe.images):
        gone, false = _gradient_faults(probe, defense, part(points).detach(), groups)
        odd = gone | false
        if int(odd.sum()) > max(int(worst.sum()), PARTLY * len(odd)):
            worst = odd
    return worst


def _gradient_faults(
    probe: Probe, defense: Classifier, points: Tensor, groups: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Return at which points (B, C, H, W) there is no gradient, and at which a false gradient."""
    gradient = gradient_of(defense, points, probe.labels)
    flat = torch.zeros_like(points).flatten(1) if gradient is None else gradient.flatten(1)
    gone = useless(flat)
    flat = torch.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
    false = ~gone
    if not probe.separable:  # the others only keep them company
        false &= torch.zeros_like(gone).index_fill(0, _rows(gone, groups), value=True)
    for length in LENGTHS:
        if probe.separable:
            rise, promised = rises(probe, defense, points, flat, length)
            false &= rise < KEPT * promised
        for rows in () if probe.separable else groups:
            moved = torch.zeros_like(flat)
            moved[[*rows]] = flat[[*rows]]
            rise, promised = rises(probe, defense, points, moved, length)
            false[[*rows]] &= bool(rise.sum() < KEPT * promised.sum())
    return gone, false


def _rows(like: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([*chain(*groups)], dtype=torch.long, device=like.device)
