"""A probe of the scores: do they tell how near the boundary is?

Attacks by scores, and every ascent, need a margin that moves and falls towards the boundary. On a
segment from a natural image to an image of another class it must cross zero, and on the way there
it can be watched. For b = min(B, 16) images it costs 22 b single-image calls, 8 times as many where
answers are random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks import checks
from dentbench.attacks.base import margins, scale_of
from dentbench.attacks.checks import Check
from dentbench.attacks.probes.base import Probe

GRID: Final = 8
"""Into how many parts a segment is cut, to find the crossing and to watch the way there."""

HALVINGS: Final = 6
"""How often the part with the crossing is halved."""

DRAWS: Final = 8
"""How many answers a random defense's margin is the mean of."""

PAIRS: Final = 3
"""The fewest segments that decide the check."""

RISING: Final = 0.5
"""The least share of the way to the boundary along which the margin must rise."""

NEAR: Final = 0.95
"""The largest share of a natural image's margin that may be left beside the boundary.

A defense that sharpens its answers, as entropy minimization does, leaves more than none.
"""

FLAT: Final = 1e-6
"""A margin moves by more than this share of the range of logits."""


@torch.no_grad()
def scores(probe: Probe, *, random: bool) -> Check:
    """Watch the margin between natural images of different classes."""
    (x, y), defense = probe.few, probe.make()
    other = _partners(y)
    draws = DRAWS if random else 1

    def answer(t: Tensor) -> Tensor:
        points = torch.lerp(x, x[other], t[:, None, None, None].to(x))
        return torch.stack([defense(points) for _ in range(draws)]).mean(0)

    start = answer(torch.zeros(len(x), device=x.device))
    watched = _watch(lambda t: margins(answer(t), y), margins(start, y), scale_of(start))
    return _said(*watched, random=random)


def _partners(labels: Tensor) -> Tensor:
    """Return for each image the next image of another class, itself where there is none."""
    places = torch.arange(len(labels), device=labels.device)
    others = places.clone()
    for shift in range(len(labels) - 1, 0, -1):
        beside = (places + shift) % len(labels)
        others = torch.where(labels[beside] != labels, beside, others)
    return others


def _watch(
    margin_at: Callable[[Tensor], Tensor], start: Tensor, span: float
) -> tuple[int, float, float]:
    """Return how many segments cross, the mean share that rises, and the largest fall beside it.

    ``margin_at`` maps places (b,) on the segments to margins; ``start`` (b,): those at 0.
    """
    low, high = torch.zeros_like(start), torch.full_like(start, torch.nan)
    for part in range(1, GRID + 1):
        place = torch.full_like(start, part / GRID)
        wrong = (margin_at(place) > 0) & high.isnan()
        high = torch.where(wrong, place, high)
        low = torch.where(high.isnan(), place, low)
    usable = (start < 0) & ~high.isnan()
    high = torch.nan_to_num(high, nan=1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        wrong = margin_at(middle) > 0
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    way = torch.stack([start, *(margin_at(low * part / GRID) for part in range(1, GRID + 1))])
    way = way[:, usable]
    if way.shape[1] < PAIRS:
        return way.shape[1], 0.0, 1.0
    rising = float((way.diff(dim=0) > FLAT * span).double().mean())
    return way.shape[1], rising, float((way[-1] / way[0]).clamp(0, 1).mean())


def _said(pairs: int, rising: float, near: float, *, random: bool) -> Check:
    if pairs < PAIRS:
        text = f"{pairs} natural images lie on a segment to another class; {PAIRS} are needed"
        return Check(checks.SCORES, None, None, text)
    passed = near <= NEAR and (random or rising >= RISING)  # noise rises half of the time
    sentence = (
        f"on the way to another class the margin rises on {100 * rising:.0f}% of {pairs} segments, "
        f"and {100 * near:.0f}% of it is left beside the boundary"
    )
    if not passed:
        sentence += ": scores do not tell how near the boundary is, only the label counts; run the "
        sentence += "protocol decision"
    return Check(checks.SCORES, passed, rising, sentence)
