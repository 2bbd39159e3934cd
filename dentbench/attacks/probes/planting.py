"""Plant adversarial points: attacks are run where such points exist by construction.

The logits of a defense get, for each image, a readout of two classes, fitted so that a point at
the edge of the ball is on the other side and random points of the ball are not. An attack that
does not find such a point would miss others. Source: Zimmermann et al., NeurIPS 2022
(arXiv 2206.13991), who fit the readout to features, while every defense has logits. That the
point is improved by the scores of random points (a step of evolution strategies) is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from dentbench.attacks.base import OFFERS, Classifier, ThreatModel
from dentbench.attacks.probes.base import Probe

IMAGES: Final = 8
"""The number of images at which a point is planted."""

DRAWS: Final = 40
"""The random points that a readout is fitted on."""

FRESH: Final = 16
"""Further random points, none of which may be on the other side either."""

CHANGES: Final = 24
CHANGED: Final = 0.1
"""How often a point is changed at random, and the share of its values that are drawn anew."""

EDGE: Final = 0.8
"""Where the boundary lies between the best random score and that of the planted point."""

STANDS_OUT: Final = 1e-2
"""The share of its own rise by which a planted point must exceed random points."""

REPEATS: Final = 8
"""How many answers of a random defense a score is the mean of."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """A score of logits for each of b images: positive on the other side, -1 at the image.

    ``weight`` (b, classes), ``bias`` (b,).
    """

    weight: Tensor
    bias: Tensor

    def score(self, logits: Tensor) -> Tensor:
        """Return the scores (b,) of logits (b, classes)."""
        return (logits * self.weight).sum(1) + self.bias

    def logits(self, logits: Tensor) -> Tensor:
        """Return logits (b, 2) whose margin over class 0 is the score."""
        score = self.score(logits)
        return torch.stack([-score / 2, score / 2], dim=1)


class ReadoutDefense:
    """A defense whose logits are read by a readout; it has the parts that the defense has."""

    def __init__(self, defense: Any, readout: Readout) -> None:
        self._defense = defense
        self._readout = readout

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (b, 2) of images."""
        return self._readout.logits(self._defense(x))

    def __getattr__(self, name: str) -> Any:
        if name not in OFFERS:
            raise AttributeError(name)
        part = getattr(self._defense, name)
        if name == "predict":
            return lambda x, adaptation: self._readout.logits(part(x, adaptation))
        return part


@dataclass(frozen=True, kw_only=True)
class Planting:
    """Planted ``points`` (b, C, H, W) in the balls of ``images`` (b, C, H, W).

    ``stands`` (b,): where a point stands out from random points; nowhere if answers are flat.
    """

    images: Tensor
    points: Tensor
    stands: Tensor
    readout: Readout
    repeats: int

    @torch.no_grad()
    def hits(self, defense: Classifier, points: Tensor) -> int:
        """Count the points (b, C, H, W) that the defense judges to be adversarial."""
        answers = torch.stack([defense(points) for _ in range(self.repeats)]).mean(0)
        return int(((self.readout.score(answers) > 0) & self.stands).sum())


@torch.no_grad()
def plant(probe: Probe, *, random: bool, count: int = IMAGES) -> Planting:
    """Plant a point at each of the first ``count`` images; ``random``: the answers are."""
    defense, x = probe.make(), probe.images[:count]
    repeats = REPEATS if random else 1

    def answer(points: Tensor) -> Tensor:
        return torch.stack([defense(points) for _ in range(repeats)]).mean(0).double()

    def answers(many: list[Tensor]) -> Tensor:
        if random or not probe.separable:
            return torch.stack([answer(batch) for batch in many])
        parts = torch.cat(many).split(max(len(probe.images), 1))
        return torch.cat([answer(part) for part in parts]).view(len(many), len(x), -1)

    generator = torch.Generator().manual_seed(probe.seed)
    edges = [_edge(x, probe.threat, generator) for _ in range(DRAWS)]
    draws = answers(edges)
    weight, centre = _fit(draws, answer(x))

    def score(points: Tensor) -> Tensor:
        return ((answer(points) - centre) * weight).sum(1)

    fresh = answers([_edge(x, probe.threat, generator) for _ in range(FRESH)])
    scores = ((torch.cat([draws, fresh]) - centre) * weight).sum(2)
    chance = scores.amax(0)
    start = _towards(x, edges, scores[:DRAWS], probe.threat)
    points = _improved(x, start, score, probe.threat, generator)
    planted, natural = score(points), score(x)
    boundary = chance + EDGE * (planted - chance)
    stands = (planted - chance > STANDS_OUT * (planted - natural).abs()) & (boundary > natural)
    scale = torch.where(stands, boundary - natural, torch.inf)
    weight = weight / scale[:, None]
    bias = torch.where(stands, -(centre * weight).sum(1) - boundary / scale, -1)
    return Planting(
        images=x,
        points=points,
        stands=stands,
        readout=Readout(weight=weight.to(x.dtype), bias=bias.to(x.dtype)),
        repeats=repeats,
    )


def _edge(x: Tensor, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Return random points at the edge of the ball: corners in Linf, else on the sphere."""
    return _moved(x, torch.randn(x.shape, generator=generator).to(x), threat)


def _moved(x: Tensor, direction: Tensor, threat: ThreatModel) -> Tensor:
    if threat.norm == "Linf":
        return threat.project(x + threat.eps * direction.sign(), x)
    length = direction.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return threat.project(x + threat.eps * direction / length, x)


def _fit(draws: Tensor, natural: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a readout of logits (draws, b, classes) to the largest change among random points.

    Return the weights and the centre (b, classes). ``natural`` (b, classes) scores at most 0.
    """
    centre = draws.mean(0)
    away = (draws - centre).transpose(0, 1)
    weight = torch.linalg.eigh(away.transpose(1, 2) @ away).eigenvectors[:, :, -1]
    score = ((natural - centre) * weight).sum(1, keepdim=True)
    return torch.where(score > 0, -weight, weight), centre


def _towards(x: Tensor, edges: list[Tensor], scores: Tensor, threat: ThreatModel) -> Tensor:
    """Return the points in the direction of random points, weighted by scores (draws, b)."""
    direction = torch.zeros_like(x)
    for points, score in zip(edges, scores.to(x.dtype), strict=True):
        direction += score[:, None, None, None] * (points - x)
    return _moved(x, direction, threat)


def _improved(
    x: Tensor,
    points: Tensor,
    score: Callable[[Tensor], Tensor],
    threat: ThreatModel,
    generator: torch.Generator,
) -> Tensor:
    """Return points of higher scores: random changes at the edge, each kept where it helps."""
    best = score(points)
    for _ in range(CHANGES):
        chosen = torch.rand(x.shape, generator=generator).to(x) < CHANGED
        fresh = _edge(x, threat, generator)
        trial = _moved(x, torch.where(chosen, fresh, points) - x, threat)
        value = score(trial)
        better = value > best
        best = torch.where(better, value, best)
        points = torch.where(better[:, None, None, None], trial, points)
    return points
