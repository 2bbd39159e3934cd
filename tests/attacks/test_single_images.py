"""Images that attacks are misled about, in closed forms: linear networks with false gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.probes.base import LEAST_SHOWN, Probe, drawn
from dentbench.attacks.probes.climbing import climb, climb_unevenly
from dentbench.attacks.probes.single_images import (
    BROKEN,
    FALSE_GRADIENT,
    IN_PARTS,
    JUMPS,
    NO_CLIMB,
    NO_GRADIENT,
    misled,
)
from tests.attacks.probing import probe_at
from tests.attacks.toys import small_network, tiny_images

COUNT = 12


def probe_of(defense: Classifier, *, eps: float = 1e-3, separable: bool = True) -> Probe:
    return probe_at(defense, ThreatModel("Linf", eps), tiny_images(COUNT), separable=separable)


def on_odd_rows(lie: Callable[[Tensor], Tensor]) -> Classifier:
    """The network, whose answers to images at odd places of a batch are changed."""
    network = small_network()

    def answer(x: Tensor) -> Tensor:
        logits = network(x)
        odd = torch.arange(len(x)) % 2 == 1
        return torch.where(odd[:, None], lie(logits), logits)

    return answer


def reversed_gradient(logits: Tensor) -> Tensor:
    return 2 * logits.detach() - logits


ODD = [*range(1, COUNT, 2)]


@pytest.mark.parametrize("separable", [True, False])
def test_an_honest_network_misleads_about_no_image(separable: bool) -> None:
    groups = [[0, 1, 2], [*range(3, COUNT)]]
    assert misled(probe_of(small_network(), separable=separable), groups) == [""] * COUNT


@pytest.mark.parametrize(
    ("lie", "reason"), [(reversed_gradient, FALSE_GRADIENT), (Tensor.detach, NO_GRADIENT)]
)
def test_the_images_that_it_misleads_about_are_named(
    lie: Callable[[Tensor], Tensor], reason: str
) -> None:
    result = misled(probe_of(on_odd_rows(lie)), [])
    assert result == [reason if row % 2 else "" for row in range(COUNT)]


def linear(points: Tensor) -> Tensor:
    """Logits (B, 5) of a linear network without bias."""
    logits: Tensor = points.flatten(1) @ _weight(points).T
    return logits


def _weight(points: Tensor) -> Tensor:
    return torch.randn(5, points[0].numel(), generator=torch.Generator().manual_seed(8))


def inner_probe(answer: Classifier, *, eps: float) -> Probe:
    """A probe of images so far from 0 and 1 that no ball is cut, with the linear labels."""
    x = 0.25 + 0.5 * tiny_images(COUNT)
    return replace(probe_of(answer, eps=eps), images=x, labels=linear(x).argmax(1))


def test_an_uneven_ascent_is_as_good_as_its_ball_allows_and_stays_in_the_ball() -> None:
    """Of a linear network every pixel moves to its own end: a closed form."""
    asked: list[Tensor] = []

    def answer(points: Tensor) -> Tensor:
        asked.append(points.detach())
        return linear(points)[:, :2]

    probe, eps = inner_probe(answer, eps=0.1), 0.1
    x = probe.images
    y = linear(x)[:, :2].argmax(1)
    climbed = climb_unevenly(probe, x, y)
    assert all(probe.threat.contains(points, x).all() for points in asked)
    moved = torch.stack([(points - x).abs().flatten(1) for points in asked]).amax(0)
    assert 0.8 * eps - 1e-6 <= float(moved.min()) <= 0.85 * eps
    assert float(moved.max()) >= 0.95 * eps
    gap = _weight(x)[1] - _weight(x)[0]
    best = torch.where(y == 0, 1, -1) * (x.flatten(1) @ gap) + moved @ gap.abs()
    assert torch.allclose(climbed.best[-1], best, atol=1e-4)


def test_what_is_robust_at_corners_alone_is_broken_by_the_check() -> None:
    """Where half of the pixels have moved as far as any, it answers as at the image."""
    clean = inner_probe(linear, eps=0.1).images

    def answer(points: Tensor) -> Tensor:
        moved = (points - clean).detach().abs().flatten(1)
        corner = (moved > 0.99 * moved.amax(1, keepdim=True)).float().mean(1) > 0.5
        return torch.where(corner[:, None], linear(clean + 0.01 * (points - clean)), linear(points))

    probe = inner_probe(answer, eps=0.1)
    x, y = probe.images, probe.labels
    uneven = climb_unevenly(inner_probe(linear, eps=0.1), x, y).best[-1] > 0
    missed = uneven & (climb(probe, x, y, probe.threat, 20).best[-1] <= 0)
    assert int(missed.sum()) > COUNT // 4
    result = misled(probe, [])
    assert all(result[row] == BROKEN for row in uneven.nonzero().flatten().tolist())


def test_answers_that_the_image_itself_seeds_jump() -> None:
    """One point in fifty is answered by another network, and no label changes."""
    network = small_network()

    def answer(points: Tensor) -> Tensor:
        logits = network(points)
        bits = (points.detach().double().flatten(1).sum(1) * 1e9) % 1
        return torch.where((bits < 0.02)[:, None], 2 * logits, logits)

    assert {*misled(probe_of(network), [])} == {""}
    result = misled(probe_of(answer), [])
    assert JUMPS in result and {*result} <= {JUMPS, BROKEN, FALSE_GRADIENT}, result
    assert "" not in result  # lucky points may lie beside any image


@pytest.mark.parametrize("lie", [reversed_gradient, Tensor.detach])
def test_what_misleads_in_a_part_of_the_ball_alone_is_told(lie: Callable[[Tensor], Tensor]) -> None:
    """Its answers are the same everywhere: in a shell alone it has no true gradient."""
    network, eps = small_network(), 1e-3
    clean = probe_of(network).images

    def answer(points: Tensor) -> Tensor:
        moved = (points.detach() - clean).abs().flatten(1).amax(1) / eps
        shell = (moved > 0.5) & (moved < 0.9)
        return torch.where(shell[:, None], lie(network(points)), network(points))

    assert {*misled(probe_of(answer, eps=eps), [])} == {IN_PARTS}


def test_of_images_that_share_an_answer_a_group_is_misled_about() -> None:
    probe = probe_of(on_odd_rows(reversed_gradient), separable=False)
    result = misled(probe, [ODD, [0, 2]])
    assert [result[row] for row in ODD] == [FALSE_GRADIENT] * len(ODD)
    assert not any(result[::2])


def test_images_that_the_check_breaks_were_not_attacked() -> None:
    result = misled(probe_of(small_network(), eps=0.5), [])
    assert result.count(BROKEN) > COUNT / 2


def test_a_gradient_that_leads_nowhere_is_told() -> None:
    """Steps up and down a tent: the gradient is true, and every step ends lower."""
    network = small_network()

    def tent(x: Tensor) -> Tensor:
        here = tiny_images(COUNT)[: len(x)]
        low = (x - here).flatten(1).abs().sum(1, keepdim=True)
        return network(here) * (1 + low) + 1e-6 * network(x)

    result = misled(probe_of(tent), [])
    assert set(result) <= {NO_CLIMB, FALSE_GRADIENT, NO_GRADIENT}
    assert result.count(NO_CLIMB) + result.count(FALSE_GRADIENT) == COUNT


@pytest.mark.parametrize("size", [1, 3, 8, 16, 32, 48])
def test_checks_ask_about_enough_images_whatever_the_size_of_a_batch(size: int) -> None:
    rows = drawn(200, size, seed=0)
    assert len(rows) == len({*rows}) == size * math.ceil(LEAST_SHOWN / size)
    assert not len(rows) % size
    first = sum(row < len(rows) for row in rows)
    assert first == len(rows) - len(rows) // 2
    assert drawn(5, size, seed=0) == [*range(5)][: max(5, size)]
