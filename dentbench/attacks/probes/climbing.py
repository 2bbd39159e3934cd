"""Short ascents of the margin along the published gradient, for the checks that need some.

For b = min(B, 16) images they cost at most (N + 59) b single-image calls, with N the iterations of
the attack: ascents of 20 and of N steps in the ball, of 10 steps in half of it, in uneven balls
and in the whole box, and 5 random points. A static model is asked in parts of the ball too
(``shapes.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.apgd import apgd
from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.losses import make_loss
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.protocols.search import through

STEPS: Final = 20
DRAWS: Final = 5
"""The steps of the ascent, and the random points that it must beat."""

SHORT: Final = 10
"""The steps of the ascents with another eps, or in another shape."""

UNEVEN: Final = 0.8
"""The least share of a change of an image that is left to a pixel in an uneven ball."""


@dataclass(frozen=True)
class Climb:
    """An ascent: ``best`` (steps + 1, b), the highest margin up to each step of each image."""

    best: Tensor

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return len(self.best) - 1

    @property
    def right(self) -> int:
        """How many images are right at their best points."""
        return int((self.best[-1] <= 0).sum())

    @property
    def broken(self) -> dict[int, float]:
        """Return the margins, by row, of images that were right and that the ascent breaks."""
        rows = ((self.best[0] <= 0) & (self.best[-1] > 0)).nonzero().flatten().tolist()
        return {row: float(self.best[-1, row]) for row in rows}


@dataclass(frozen=True)
class Climbs:
    """The ascents, and the margins (draws, b) at random points of the ball.

    ``short``: 20 steps; ``full``: the attack's own, at least those; ``half``: with half of eps;
    ``uneven``: see :func:`climb_unevenly`; ``whole``: in a ball that holds the whole box.
    """

    chance: Tensor
    short: Climb
    full: Climb
    half: Climb
    uneven: Climb
    whole: Climb


def climb_all(probe: Probe) -> Climbs:
    """Make every ascent, each on a defense as it was before any question."""
    few = probe.few
    norm, eps = probe.threat.norm, probe.threat.eps
    everything = 1.0 if norm == "Linf" else float(few[0][0].numel()) ** 0.5
    return Climbs(
        chance=at_random_points(probe, *few),
        short=(short := climb(probe, *few, probe.threat, STEPS)),
        full=(
            short
            if probe.iterations <= STEPS
            else climb(probe, *few, probe.threat, probe.iterations)
        ),
        half=climb(probe, *few, ThreatModel(norm, eps / 2), SHORT),
        uneven=climb_unevenly(probe, *few),
        whole=climb(probe, *few, ThreatModel(norm, everything), SHORT),
    )


@torch.no_grad()
def at_random_points(probe: Probe, x: Tensor, y: Tensor) -> Tensor:
    """Return the margins (draws, b) at random points of the balls of images (b, C, H, W)."""
    defense, loss = probe.make(), make_loss("margin", y)
    points = [probe.random_points(x, number) for number in range(1, 1 + DRAWS)]
    return torch.stack([loss(defense(point)) for point in points])


def climb(probe: Probe, x: Tensor, y: Tensor, threat: ThreatModel, steps: int) -> Climb:
    """Ascend from images (b, C, H, W) with labels (b,), on a defense as before any question."""
    return _climbed(probe.make(), x, y, threat, steps)


def climb_unevenly(probe: Probe, x: Tensor, y: Tensor) -> Climb:
    """Ascend where every pixel may move by a share of its own, 0.8 to 1, of what the ball allows.

    All of its points lie in the ball, which holds half of it. But the steps of an attack by signs
    end at corners, where every pixel moves by as much: a defense that is robust there alone is
    robust to such attacks and to nothing else.
    """
    share = uneven_shares(probe, x)
    return climb_through(probe, lambda z: x + share * (z - x), x, y, probe.threat, SHORT)


def uneven_shares(probe: Probe, x: Tensor) -> Tensor:
    """Return the shares (B, C, H, W), 0.8 to 1, by which pixels move in an uneven ball."""
    generator = torch.Generator().manual_seed(probe.seed)
    return (UNEVEN + (1 - UNEVEN) * torch.rand(x.shape, generator=generator)).to(x)


def climb_through(
    probe: Probe,
    part: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    steps: int,
) -> Climb:
    """Ascend in the ball of ``threat``; ``part`` maps its points to those that are asked about."""
    defense = probe.make()
    return _climbed(lambda z: defense(part(z)), x, y, threat, steps)


def _climbed(defense: Classifier, x: Tensor, y: Tensor, threat: ThreatModel, steps: int) -> Climb:
    highs: list[Tensor] = []
    loss = make_loss("margin", y)

    def on_iterate(points: Tensor, logits: Tensor | None) -> None:
        del points
        assert logits is not None
        highs.append(loss(logits))

    apgd(through(defense, judges=True), loss, x, x, threat, steps, on_iterate)
    return Climb(torch.stack(highs).cummax(0).values)
