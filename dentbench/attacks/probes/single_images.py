"""Probe images one by one: was there a gradient that an attack could follow?

A check of a batch passes a defense that misleads attacks about few of its images, and a gain may
rest on just these. Each image is asked about on its own account: at the image and at a random point
of its ball it needs a gradient, along which a short step, or one across the levels of a defense
that rounds, brings at least half of the rise that it promises; a short ascent along the gradient
must beat random points, and neither these nor ascents in parts of the ball (``shapes.py``) may
break the image, which every attack left right. Where images share an answer, a step moves one group
of them, and it is their gradient together that is true or not. All are misled about where answers
jump from point to point, as those of chance that the image itself seeds: who asks often enough
finds a lucky point. For B images it costs 276 B single-image calls, and 8 B for each further group.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, scale_of
from dentbench.attacks.probes.base import Probe, gradient_of
from dentbench.attacks.probes.climbing import STEPS, at_random_points, climb
from dentbench.attacks.probes.gradients import KEPT, SHORT, rises, useless
from dentbench.attacks.probes.shapes import best_in_shapes

LENGTHS: Final = (SHORT, 0.25)
"""The lengths of the steps, as shares of eps."""

NO_GRADIENT: Final = "have no gradient"
FALSE_GRADIENT: Final = "have one that a short step does not follow"
NO_CLIMB: Final = "are attacked no better than at random"
JUMPS: Final = "have answers that jump from point to point"
BROKEN: Final = "are broken by the check itself"
"""What is wrong with an image that counts as right."""

NEARBY: Final = 64
"""How many points that lie as near as rounding errors to one another are asked about."""

APART: Final = 1e-6
"""How far apart these points are, in every pixel."""

JUMP: Final = 0.05
"""The share of the logits' range by which an answer jumps; a level of 8 bits moves it by less."""

JUMPY: Final = 0.1
"""The largest share of images beside whose random point an edge may happen to lie."""


def misled(probe: Probe, groups: Sequence[Sequence[int]], *, briefly: bool = False) -> list[str]:
    """Return for each of the probe's images what is wrong with it, or "".

    ``groups``: rows of images that a step moves together, if the defense is not separable.
    ``briefly``: not about parts of the ball and jumps, which are 219 B of the 276 B calls.
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
    for points in (probe.random_points(x, 0), x):
        gone, false = _gradient_faults(probe, probe.make(), points, groups)
        say(false, FALSE_GRADIENT)
        say(gone, NO_GRADIENT)
    found = [climbed[-1], *chance]
    if not briefly:
        found.append(best_in_shapes(probe, x, y))
        jumpy = _jumps(probe)
        say(jumpy | (float(jumpy.double().mean()) > JUMPY), JUMPS)
    say(torch.stack(found).amax(0) > 0, BROKEN)
    return reasons


@torch.no_grad()
def _jumps(probe: Probe) -> Tensor:
    """Return beside a random point of which images (B,) an answer differs from the next."""
    defense, points = probe.make(), probe.random_points(probe.images, 0)
    generator = torch.Generator().manual_seed(probe.seed)
    usual = defense(points)
    jumps = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for _ in range(NEARBY):
        away = APART * (2 * torch.rand(points.shape, generator=generator).to(points) - 1)
        near = probe.threat.project(points + away, probe.images)
        jumps |= (defense(near) - usual).abs().amax(1) > JUMP * scale_of(usual)
    return jumps


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
