"""Short ascents in parts of the ball, of other shapes, for images that every attack left right.

The steps of an attack end where such steps end: in Linf at corners, where every pixel moves by as
much, in L2 on the sphere. A defense that is robust there alone is robust to such attacks and to
nothing else. So its margin is followed in parts of the ball too: where every pixel may move by a
share of its own, in smaller balls, where pixels are moved one way alone or as their neighbours are,
where half of the image or one channel moves, beside pixels that are put somewhere at random, along
the steps of the other norm, at points that a file of 8 bits can hold, and where few pixels move.
Every point asked about lies in the ball. For B images it costs 11 B single-image calls for each of
20 shapes, and 3 more of images in color. The check is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.attacks.base import ThreatModel
from dentbench.attacks.losses import make_loss
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.climbing import SHORT, climb_through, uneven_shares
from dentbench.attacks.protocols.search import through

SMALLER: Final = (
    *((0.125, 0.25), (0.25, 0.375), (0.375, 0.5)),
    *((0.5, 0.625), (0.625, 0.75), (0.75, 0.875), (0.875, 1.0)),
)
"""Between which shares of eps the radii of smaller balls are drawn, for each image its own."""

LEAST_SHARE: Final = 0.3
"""The least share of a change that is left to a pixel where shares differ widely."""

FROZEN: Final = 0.25
"""The share of pixels that are put somewhere at random."""

SPARSE: Final = 0.45
"""The share of pixels that have moved after the last step where few move."""

PLACED: Final = 0.5
"""How far, as a share of eps, pixels that are put somewhere move an image in L2."""

CROSSED: Final = 0.7
"""The radius of the ball of the other norm, as a share of one as large: it sticks out a little."""

MOST_CHANNELS: Final = 4
"""The most channels of images that are moved one by one."""

LEVELS: Final = 255
"""The steps between the values of a pixel in a file of 8 bits."""

Part = Callable[[Tensor], Tensor]
"""Maps points (B, C, H, W) of the ball to points of a part of it, with a gradient."""


def best_in_shapes(probe: Probe, x: Tensor, y: Tensor) -> Tensor:
    """Return the highest margins (B,) of images (B, C, H, W) that ascents in parts of a ball find.

    ``y`` (B,): the labels.
    """
    ascents = [(part, probe.threat) for part in parts_of(probe, x)]
    ascents.append((lambda z: probe.threat.project(z, x), other_norm(probe.threat, x)))
    climbed = [climb_through(probe, part, x, y, threat, SHORT) for part, threat in ascents]
    return torch.stack([*(ascent.best[-1] for ascent in climbed), best_of_few(probe, x, y)]).amax(0)


def best_of_few(probe: Probe, x: Tensor, y: Tensor) -> Tensor:
    """Return the highest margins (B,) where ever more pixels move, those first that matter most.

    ``x`` (B, C, H, W): the images; ``y`` (B,): their labels.
    """
    ask, loss, pixels = through(probe.make(), judges=True), make_loss("margin", y), x[0].numel()
    current = ask(x, loss)
    moved, best = torch.zeros_like(x.flatten(1), dtype=torch.bool), current.loss
    for number in range(1, SHORT + 1):
        slope = current.gradient.flatten(1)
        first = slope.abs().masked_fill(moved, torch.inf)
        count = max(round(SPARSE * pixels * number / SHORT), 1)
        moved = moved.scatter(1, first.topk(count, dim=1).indices, value=True)
        current = ask(_stepped(x, moved * slope, probe.threat), loss)
        best = torch.maximum(best, current.loss)
    return best


def _stepped(x: Tensor, slope: Tensor, threat: ThreatModel) -> Tensor:
    """Return the points of the ball of images (B, C, H, W) along slopes (B, values)."""
    step = slope.sign() if threat.norm == "Linf" else slope / slope.norm(dim=1, keepdim=True)
    return threat.project(x + threat.eps * torch.nan_to_num(step).view_as(x), x)


def parts_of(probe: Probe, x: Tensor) -> tuple[Part, ...]:
    """Return parts of the balls of images (B, C, H, W), drawn from the probe's seed."""
    threat = probe.threat
    generator = torch.Generator().manual_seed(probe.seed)

    def draw() -> Tensor:
        return torch.rand(x.shape, generator=generator).to(x)

    shares = [uneven_shares(probe, x), LEAST_SHARE + (1 - LEAST_SHARE) * draw()]
    shares += [low + (high - low) * draw()[:, :1, :1, :1] for low, high in SMALLER]
    parts: list[Part] = [_shared(x, share) for share in shares]
    parts += [_one_way(x, torch.maximum), _one_way(x, torch.minimum), _smoothly(x, threat)]
    parts += [_shared(x, mask.to(x)) for mask in places_of(x)]
    return (
        *parts,
        _beside_placed(x, draw() < FROZEN, 2 * draw() - 1, threat),
        _in_levels(x, threat),
    )


def places_of(x: Tensor) -> tuple[Tensor, ...]:
    """Return where patches may lie, as masks (C, H, W): each half, and each of several channels."""
    masks = []
    for axis, parts in ((1, 2), (2, 2), (0, x.shape[1] if x.shape[1] <= MOST_CHANNELS else 1)):
        places = torch.arange(x.shape[1 + axis]) * parts // x.shape[1 + axis]
        shape = [-1 if other == axis else 1 for other in range(3)]
        masks += [(places == part).view(shape).expand(x.shape[1:]) for part in range(parts)]
    return tuple(mask for mask in masks if not bool(mask.all()))


def other_norm(threat: ThreatModel, x: Tensor) -> ThreatModel:
    """Return a ball of the other norm, about as large as the one of images (B, C, H, W)."""
    root = math.sqrt(x[0].numel())
    if threat.norm == "Linf":
        return ThreatModel("L2", CROSSED * threat.eps * root)
    return ThreatModel("Linf", threat.eps / (CROSSED * root))


def _shared(x: Tensor, share: Tensor) -> Part:
    """Every pixel moves by a share (B, ...) of its own, or of its image."""
    return lambda z: x + share * (z - x)


def _smoothly(x: Tensor, threat: ThreatModel) -> Part:
    """Every pixel moves by the mean move of those around it."""
    return lambda z: threat.project(x + F.avg_pool2d(z - x, 3, 1, 1), x)


def _beside_placed(x: Tensor, frozen: Tensor, places: Tensor, threat: ThreatModel) -> Part:
    """The pixels ``frozen`` (B, C, H, W) are put at ``places``, from -1 to 1; others are free."""
    away = places * frozen
    if threat.norm == "Linf":
        placed, left = threat.eps * away, 1.0
    else:
        length = away.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        placed, left = PLACED * threat.eps * away / length, math.sqrt(1 - PLACED**2)
    there = (x + placed).clamp(0, 1)
    return lambda z: torch.where(frozen, there, x + left * (z - x))


def _one_way(x: Tensor, bound: Callable[[Tensor, Tensor], Tensor]) -> Part:
    """No pixel gets darker, or brighter, than it is in the image."""
    return lambda z: bound(z.detach(), x) + (z - z.detach())


def _in_levels(x: Tensor, threat: ThreatModel) -> Part:
    """Every value is rounded, towards the image, to one that 8 bits can hold."""

    def part(z: Tensor) -> Tensor:
        scaled = LEVELS * z.detach()
        levels = torch.where(z.detach() >= x, scaled.floor(), scaled.ceil()) / LEVELS
        return threat.project(levels, x) + (z - z.detach())

    return part
