"""Ascents in parts of the ball: of a linear network each has a closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dentbench.attacks.base import ThreatModel, margins
from dentbench.attacks.probes import shapes
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.climbing import climb
from dentbench.attacks.probes.shapes import best_in_shapes, best_of_few
from tests.attacks.probing import probe_at
from tests.attacks.toys import tiny_images

COUNT, EPS = 12, 0.2
pytestmark = pytest.mark.whole_checks

IMAGES = 0.25 + 0.5 * tiny_images(COUNT)
"""So far from 0 and 1 that no ball is cut."""


def linear(points: Tensor, number: int = 8) -> Tensor:
    """Logits (B, 2) of a linear network without bias."""
    generator = torch.Generator().manual_seed(number)
    weight = torch.randn(2, points[0].numel(), generator=generator)
    logits: Tensor = points.flatten(1) @ weight.T
    return logits


LABELS = linear(IMAGES).argmax(1)


def probe_of(answer: Callable[[Tensor], Tensor], threat: ThreatModel) -> Probe:
    return probe_at(answer, threat, IMAGES, labels=LABELS)


@pytest.mark.parametrize("threat", [ThreatModel("Linf", EPS), ThreatModel("L2", 1.0)])
def test_every_point_lies_in_the_ball(threat: ThreatModel) -> None:
    asked: list[Tensor] = []

    def answer(points: Tensor) -> Tensor:
        asked.append(points.detach())
        return linear(points)

    found = best_in_shapes(probe_of(answer, threat), IMAGES, LABELS)
    assert len(asked) == (13 + 3 + 4 + 3) * 11
    assert all(bool(threat.contains(points, IMAGES).all()) for points in asked)
    best = torch.stack([margins(linear(points), LABELS) for points in asked]).amax(0)
    assert torch.allclose(found, best)


def test_few_pixels_move_and_those_that_matter_most() -> None:
    """The largest 45% of the weights, each by eps: a closed form."""
    found = best_of_few(probe_of(linear, ThreatModel("Linf", EPS)), IMAGES, LABELS)
    pixels = IMAGES[0].numel()
    weight = linear(torch.eye(pixels).view(-1, *IMAGES.shape[1:]))
    gap = (weight[:, 1] - weight[:, 0]).abs().topk(round(shapes.SPARSE * pixels)).values.sum()
    assert torch.allclose(found, margins(linear(IMAGES), LABELS) + EPS * gap, atol=1e-4)


def moved(points: Tensor) -> Tensor:
    """How far pixels have moved (B, values), as shares of eps."""
    return (points.detach() - IMAGES).abs().flatten(1) / EPS


def unmoved(points: Tensor, axis: int) -> Tensor:
    """Whether all pixels in one half along an axis of the images are where they were (B,)."""
    halves = moved(points).view_as(points).tensor_split([3], dim=axis + 1)
    return torch.stack([half.flatten(1).amax(1) < 0.01 for half in halves]).any(0)


WEAK_WHERE: dict[str, Callable[[Tensor], Tensor]] = {
    "uneven": lambda x: (moved(x) > 0.75 * moved(x).amax(1, keepdim=True)).double().mean(1) < 0.5,
    "in a shell": lambda x: (moved(x).amax(1) - 0.75).abs() < 0.1,
    "brighter": lambda x: ((x.detach() - IMAGES) >= 0).flatten(1).all(1),
    "darker": lambda x: ((x.detach() - IMAGES) <= 0).flatten(1).all(1),
    "few move": lambda x: (moved(x) < 0.01).double().mean(1) > 0.5,
    "deep inside": lambda x: (moved(x).amax(1) - 0.35).abs() < 0.1,
    "a half": lambda x: unmoved(x, 1) | unmoved(x, 2),
    "a channel": lambda x: moved(x).view_as(x).flatten(2).amax(2).gt(0.01).sum(1) == 1,
    "8 bits": lambda x: (255 * x - (255 * x).round()).abs().flatten(1).amax(1) < 1e-3,
}


@pytest.mark.parametrize("place", WEAK_WHERE)
def test_what_is_weak_in_a_part_of_the_ball_alone_is_broken_there(place: str) -> None:
    """Elsewhere it answers as near the image, where nothing breaks it."""
    where = WEAK_WHERE[place]

    def answer(points: Tensor) -> Tensor:
        strong = linear(IMAGES + 0.01 * (points - IMAGES))
        there = where(points) & (moved(points).amax(1) > 0.2)
        return torch.where(there[:, None], linear(points), strong)

    threat = ThreatModel("Linf", EPS)
    whole = climb(probe_of(linear, threat), IMAGES, LABELS, threat, 20).best[-1] > 0
    missed = climb(probe_of(answer, threat), IMAGES, LABELS, threat, 20).best[-1] <= 0
    found = best_in_shapes(probe_of(answer, threat), IMAGES, LABELS) > 0
    assert bool(whole.any()) and bool((found <= whole).all())
    assert int((found & missed).sum()) >= 0.25 * int(whole.sum())
