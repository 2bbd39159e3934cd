"""Answers that jump: walks in closed form, and networks that change from cell to cell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, ThreatModel, margins
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.jumps import STRIDES, WALK, jumps, stands_out, walk
from tests.attacks.probing import probe_at
from tests.attacks.toys import small_network, tiny_images

COUNT = 12
THREATS = [ThreatModel("Linf", 0.05), ThreatModel("L2", 0.4)]


def probe_of(defense: Classifier, threat: ThreatModel) -> Probe:
    return probe_at(defense, threat, 0.25 + 0.5 * tiny_images(COUNT))  # no ball is cut


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_a_walk_crosses_the_ball_from_end_to_end(threat: ThreatModel) -> None:
    asked: list[Tensor] = []

    def linear(points: Tensor) -> Tensor:
        asked.append(points)
        return torch.stack([points.flatten(1).sum(1), torch.zeros(len(points))], 1)

    probe = probe_of(linear, threat)
    probe.labels.zero_()
    walked = walk(probe)
    assert walked.shape == (WALK, COUNT) and len(asked) == WALK
    assert torch.allclose(walked, torch.stack([-x.flatten(1).sum(1) for x in asked]))
    assert all(bool(threat.contains(points, probe.images).all()) for points in asked)
    for end in (asked[0], asked[-1]):
        reach = threat.distance(end, probe.images)
        assert torch.allclose(reach, torch.full_like(reach, threat.eps))
    middle = (asked[0] + asked[-1]) / 2
    assert torch.allclose(middle, probe.images, atol=1e-6)


def along(*parts: tuple[int, float]) -> Tensor:
    """A rising walk (points, 1) with values added from a point on."""
    walked = torch.linspace(0, 0.2, WALK)
    for first, added in parts:
        walked[first:] += added
    return walked[:, None]


@pytest.mark.parametrize("width", [1, *STRIDES])
@pytest.mark.parametrize("height", [1.0, -1.0])
def test_what_leaves_its_neighbours_and_comes_back_stands_out(width: int, height: float) -> None:
    walked = along((20, height), (20 + width, -height))
    assert bool(stands_out(walked, 0.5)) and not bool(stands_out(walked, 1.5))


@pytest.mark.parametrize(
    "walked",
    [
        along(),
        along((20, 1.0)),
        along((20, 1.0), (22, 1.0)),
        torch.linspace(-1, 1, WALK).abs()[:, None],
        torch.linspace(-3, 3, WALK).sin()[:, None],
        torch.arange(WALK)[:, None] % 2 * 1.0,  # as unlike everywhere
    ],
    ids=["line", "step", "steps", "tent", "wave", "noise"],
)
def test_what_is_smooth_or_does_not_come_back_does_not(walked: Tensor) -> None:
    assert not bool(stands_out(walked, 0.1))


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
@pytest.mark.parametrize("cell", [1e-9, 1e-2])
def test_another_network_in_some_cells_is_seen(threat: ThreatModel, cell: float) -> None:
    """One cell in fifty, be it a rounding error wide or a step; no label changes."""
    network = small_network()

    def answer(points: Tensor) -> Tensor:
        weight = torch.arange(1, 1 + points[0].numel()).double().sqrt()
        numbers = ((points.detach().double().flatten(1) * weight).sum(1) / cell).floor()
        drawn = (43758.5453 * torch.sin(12.9898 * numbers)) % 1
        return torch.where((drawn < 0.02)[:, None], 2 * network(points), network(points))

    assert not jumps(probe_of(network, threat)).any()
    assert float(jumps(probe_of(answer, threat)).float().mean()) > 0.3


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_a_masked_class_hides_no_jump(threat: ThreatModel) -> None:
    network = small_network()

    def masked(points: Tensor, factor: Tensor) -> Tensor:
        logits = factor[:, None] * network(points)
        last = torch.arange(logits.shape[1]) == logits.shape[1] - 1
        return torch.where(last & (logits < logits.amax(1, keepdim=True)), -1e6, logits)

    def answer(points: Tensor) -> Tensor:
        drawn = (points.detach().double().flatten(1).sum(1) * 1e9) % 1
        return masked(points, 1 + 0.5 * (drawn < 0.02))

    honest = probe_of(lambda points: masked(points, torch.ones(len(points))), threat)
    assert not jumps(honest).any()
    assert float(jumps(probe_of(answer, threat)).float().mean()) > 0.3
    assert bool((margins(answer(honest.images), honest.labels) < 0).all())
