"""Ask whether answers jump: between points as near as rounding errors, and along a walk.

Chance that the image itself seeds, or another network at one point in fifty, is nothing that a
gradient shows. If a point's last bits decide, the nearest points differ; if coarser features do,
such as a rounded sum, they are alike in a cell. So a walk crosses the ball, and a point that leaves
its neighbours, at any of some distances, while these agree with each other, stands out. A defense
that rounds has steps, which do not come back. For B images it costs 129 B single-image calls.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.base import margins, scale_of
from dentbench.attacks.probes.base import Probe

NEARBY: Final = 64
"""How many points that lie as near as rounding errors to one another are asked about."""

APART: Final = 1e-6
"""How far apart these points are, in every pixel."""

JUMP: Final = 0.05
"""The share of the logits' range by which an answer jumps; a level of 8 bits moves it by less."""

MOVED: Final = 0.25
"""The share of a margin's usual change in the ball by which it jumps."""

WALK: Final = 64
"""How many points a walk has, from one end of the ball through the image to the other."""

STRIDES: Final = (1, 2, 4, 8)
"""At which distances along a walk neighbours are compared."""

RETURN: Final = 0.1
"""The largest share of a jump by which the neighbours of a point that stands out may differ."""

EDGE: Final = 0.5
"""The least share of a jump that lies between two points of a walk: what is smooth has none."""

JUMPY: Final = 0.1
"""The largest share of images in whose ball an edge may happen to lie; else all of them jump."""

STANDS_OUT: Final = 10.0
"""How much more than usual along the same walk a point must leave its neighbours."""


@torch.no_grad()
def jumps(probe: Probe) -> Tensor:
    """Return of which of the probe's images (B,) answers in the ball jump from point to point."""
    walked = walk(probe)
    usual = float((walked.amax(0) - walked.amin(0)).median())
    least = max(MOVED * usual, APART * float(walked.abs().max()))
    found = _beside(probe, least) | stands_out(walked, least)
    return found | (float(found.double().mean()) > JUMPY)


def walk(probe: Probe) -> Tensor:
    """Return the margins (:data:`WALK`, B) along a walk across the ball of every image."""
    x, threat, defense = probe.images, probe.threat, probe.make()
    generator = torch.Generator().manual_seed(probe.seed)
    signs = torch.randn(x.shape, generator=generator).sign().to(x)
    reach = threat.eps if threat.norm == "Linf" else threat.eps / x[0].numel() ** 0.5
    places = torch.linspace(-1, 1, WALK).tolist()
    points = (threat.project(x + place * reach * signs, x) for place in places)
    return torch.stack([margins(defense(point), probe.labels) for point in points])


def stands_out(walked: Tensor, least: float) -> Tensor:
    """Return on which walks (B,) a margin jumps away by more than ``least``, and back.

    ``walked`` (points, B): the margins along the walks.
    """
    found = torch.zeros_like(walked[0], dtype=torch.bool)
    edges = walked.diff(dim=0).abs()
    for stride in STRIDES:
        before, here, after = walked[: -2 * stride], walked[stride:-stride], walked[2 * stride :]
        away = (here - (before + after) / 2).abs()
        steepest = edges.unfold(0, stride, 1).amax(2)  # of as many edges as a stride has
        there, back = steepest[: len(away)], steepest[stride : stride + len(away)]
        jumped = torch.minimum(there, back) > EDGE * away
        alone = (after - before).abs() <= RETURN * away
        usual = away.median(0).values
        found |= (jumped & alone & (away > least) & (away > STANDS_OUT * usual)).any(0)
    return found


def _beside(probe: Probe, least: float) -> Tensor:
    """Return beside a random point of which images (B,) an answer differs from the next.

    By more than :data:`JUMP` of the logits' range, or its margin by more than ``least``.
    """
    defense, points = probe.make(), probe.random_points(probe.images, 0)
    generator = torch.Generator().manual_seed(probe.seed)
    usual = defense(points)
    margin = margins(usual, probe.labels)
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for _ in range(NEARBY):
        away = APART * (2 * torch.rand(points.shape, generator=generator).to(points) - 1)
        answers = defense(probe.threat.project(points + away, probe.images))
        found |= (answers - usual).abs().amax(1) > JUMP * scale_of(usual)
        found |= (margins(answers, probe.labels) - margin).abs() > least
    return found
