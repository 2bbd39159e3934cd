"""Planted adversarial points: there by construction, not found at random, found by gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench.attacks.apgd import apgd, random_start
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.checks import from_json
from dentbench.attacks.evidence import TESTED
from dentbench.attacks.losses import make_loss
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.planting import IMAGES, Planting, ReadoutDefense, plant
from dentbench.attacks.protocols.search import through
from dentbench.evaluation.checks.planted import _planting, check_of
from dentbench.spec.evaluation import AttackSpec
from tests.attacks.probing import probe_at
from tests.attacks.toys import labels_of, small_network, tiny_images
from tests.reference import tiny_network

pytestmark = pytest.mark.whole_checks


def planted_in(
    answer: Callable[[Tensor], Tensor],
    *,
    norm: str = "Linf",
    separable: bool = True,
    random: bool = False,
) -> tuple[Probe, Planting]:
    threat = ThreatModel(norm, 0.05 if norm == "Linf" else 0.5)
    probe = probe_at(answer, threat, tiny_images(12), separable=separable)
    return probe, plant(probe, random=random)


def found_by_gradient(probe: Probe, planting: Planting, answer: Callable[[Tensor], Tensor]) -> int:
    labels = torch.zeros(len(planting.images), dtype=torch.long)
    shown = through(ReadoutDefense(answer, planting.readout))
    x = planting.images
    points = apgd(shown, make_loss("margin", labels), x, x, probe.threat, 12)
    return planting.hits(answer, points)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("separable", [True, False])
def test_a_point_is_at_the_edge_and_random_ones_are_not_it(norm: str, separable: bool) -> None:
    network = small_network(coupled=not separable)
    probe, planting = planted_in(network, norm=norm, separable=separable)
    stands = int(planting.stands.sum())
    assert stands >= 6
    assert bool(probe.threat.contains(planting.points, planting.images).all())
    distance = probe.threat.distance(planting.points, planting.images)
    assert bool((distance > 0.8 * probe.threat.eps).all())
    assert planting.hits(network, planting.points) == stands
    assert planting.hits(network, planting.images) == 0
    generator = torch.Generator().manual_seed(99)
    draws = [random_start(planting.images, probe.threat, generator) for _ in range(20)]
    assert sum(planting.hits(network, draw) for draw in draws) <= 1
    margin = ReadoutDefense(network, planting.readout)(planting.images).diff(dim=1)
    assert torch.allclose(margin[planting.stands], torch.tensor(-1.0), atol=1e-3)


def test_the_true_gradient_finds_them_and_others_do_not() -> None:
    network = small_network()
    probe, planting = planted_in(network)
    stands = int(planting.stands.sum())
    assert found_by_gradient(probe, planting, network) >= 0.9 * stands
    assert found_by_gradient(probe, planting, lambda x: network(x).detach() + 0 * network(x)) == 0
    assert found_by_gradient(probe, planting, lambda x: 2 * network(x).detach() - network(x)) == 0


def test_where_answers_are_flat_nothing_can_be_planted() -> None:
    _, planting = planted_in(lambda x: torch.ones(len(x), 5) + 0 * x.flatten(1)[:, :5])
    assert int(planting.stands.sum()) == 0
    assert check_of(0, {"published": 0}).passed is None


def test_where_few_of_the_first_images_take_a_point_more_are_tried() -> None:
    network, x = small_network(), tiny_images(20)
    x[:IMAGES, 0, 0, 0], x[IMAGES:, 0, 0, 0] = 0.2, 0.8

    def answer(points: Tensor) -> Tensor:
        logits: Tensor = network(points)
        return torch.where(points[:, :1, 0, 0] > 0.5, logits, 0 * logits + 1)

    probe = replace(planted_in(answer)[0], images=x, labels=labels_of(network, x))
    assert int(plant(probe, random=False).stands.sum()) == 0
    planting = _planting(probe, random=False)
    assert len(planting.images) == 2 * IMAGES and int(planting.stands.sum()) >= 6
    assert found_by_gradient(probe, planting, answer) >= 0.9 * int(planting.stands.sum())


def test_random_answers_are_averaged() -> None:
    network = small_network()

    def noisy(x: Tensor) -> Tensor:
        logits: Tensor = network(x)
        return logits + 0.02 * logits.std().detach() * torch.randn_like(logits)

    torch.manual_seed(0)
    probe, planting = planted_in(noisy, random=True)
    stands = int(planting.stands.sum())
    assert stands >= 6 and found_by_gradient(probe, planting, noisy) >= 0.9 * stands


def test_a_gain_needs_an_own_gradient_that_finds_them() -> None:
    single = check_of(8, {"published": 1, "unrolled": 7, "transfer": 0}, 5000)
    assert single.passed is True and single.value == 7 / 8
    assert single.shares == {"published": 1 / 8, "unrolled": 7 / 8, "transfer": 0}
    assert "published 1, unrolled 7, transfer 0 (5,000 passes); " in single.sentence
    assert single.sentence.endswith("do not count on published, transfer")
    # An attack along the static model's gradient says nothing of the defense's own.
    none = check_of(8, {"published": 1, "warm": 5, "surrogate": 8, "transfer": 8, "bpda": 8})
    assert none.passed is False
    assert "no protocol that follows the defense's own gradient (published, warm)" in none.sentence
    assert check_of(None, {}).passed is None


@pytest.mark.parametrize(
    ("actual", "in_parts", "passed"),
    [
        ({"published": 8, "warm": 8, "bpda": 1}, False, True),  # there is nothing to unroll
        ({"published": 8, "warm": 8, "bpda": 1}, True, False),
        ({"published": 8, "warm": 8, "bpda": 1, "gmsa-avg": 6}, True, True),
        ({"published": 1, "warm": 1, "unrolled": 7}, True, True),
        ({"published": 1, "warm": 1, "gmsa-min": 8, "bpda": 8}, True, False),
        ({"published": 8, "warm": 8}, True, True),  # that none was run is another doubt
    ],
)
def test_a_gain_needs_an_adaptive_protocol_too(
    actual: dict[str, int], in_parts: bool, passed: bool
) -> None:
    check = check_of(8, actual, in_parts=in_parts)
    assert check.passed is passed
    assert passed or "of them: it may miss such points elsewhere too" in check.sentence


def test_what_asks_for_answers_alone_is_not_tested() -> None:
    assert {"published", "warm", "transfer", "unrolled"} <= {*TESTED}
    assert not {"scores", "decision", "batch-mates", "poisoned-stream"} & {*TESTED}


class Masked(nn.Module):
    """The network on rounded images: no gradient, and no robustness either."""

    separable = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((50 * x).round() / 50)
        return logits


@pytest.mark.parametrize(("defense", "passed"), [("norm", True), (Masked, False)])
def test_a_record_says_what_was_found(defense: Any, passed: bool, tmp_path: Path) -> None:
    model = tiny_network().eval()
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)

    def run(*protocols: str) -> Any:
        actual = dentbench.evaluate(
            model,
            images,
            labels,
            defense=defense,
            attack=AttackSpec(name="quick", eps=Fraction(1, 25), iterations=2, targets=1),
            protocols=protocols,
            results=tmp_path,
            progress="none",
        )
        assert "planted" not in from_json(actual.static.checks)
        return from_json(actual.defended.checks)["planted"]

    first = run("published")
    assert first.passed is passed and set(first.shares) == {"published"}
    both = run("published", "warm")
    assert both.passed is passed
    # The static model's points and gradient find what rounding hides from the defense's own.
    assert both.shares.pop("transfer") > 0.5
    assert both.shares == {"published": passed, "surrogate": 1, "warm": passed}
