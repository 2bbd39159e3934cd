"""The protocols: what each does with one declared batch."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from dentbench.attacks.autoattack import run_attack
from dentbench.attacks.base import Classifier, ThreatModel, judge
from dentbench.attacks.protocols.base import AttackContext, published
from dentbench.attacks.protocols.transfer import transfer
from dentbench.attacks.views import BatchView
from dentbench.spec.evaluation import (
    AttackSpec,
    BatchPlan,
    DataSpec,
    DentSpec,
    EvalSpec,
    ModelSpec,
    derive_seed,
)
from tests.attacks.toys import labels_of, small_network, tiny_images

COUPLED = DentSpec(steps=1)
SEPARABLE = DentSpec(steps=1, loss="entropy")


def context(
    defense: Classifier,
    spec: DentSpec | None,
    unit: int = 0,
    batching: str = "declared",
    **other: Any,
) -> AttackContext:
    """Six images that the defense gets right, in units of six; ``spec`` declares it."""
    x = tiny_images(6)
    y = labels_of(defense, x)
    return AttackContext(
        spec=EvalSpec(
            model=ModelSpec(name="toy", sha256="0"),
            data=DataSpec(name="noise", sha256="1", first=0, count=6),
            batches=BatchPlan(size=4, batching=batching),
            defense=spec,
            attack=AttackSpec(name="standard", eps=Fraction(1, 40), iterations=2, queries=4),
            seed=5,
        ),
        unit=unit,
        images=x,
        labels=y,
        natural=judge(defense, x, y),
        classes=5,
        defense=defense,
        **other,
    )


def batch_sizes(spec: DentSpec | None, batching: str) -> set[int]:
    network, sizes = small_network(), set()

    def defense(x: Tensor) -> Tensor:
        sizes.add(len(x))
        return network(x)  # type: ignore[no-any-return]

    published(context(defense, spec, batching=batching))
    return sizes


def test_published_shows_a_coupled_defense_whole_batches_only() -> None:
    assert batch_sizes(COUPLED, "declared") == {6}


@pytest.mark.parametrize("spec", [None, SEPARABLE, DentSpec(steps=0)])
def test_published_hands_an_independent_defense_parts_of_batches(spec: DentSpec | None) -> None:
    sizes = batch_sizes(spec, "declared")
    assert len(sizes) > 2 and max(sizes) == 6


def test_published_as_autoattack_packs_never_hands_over_more_than_a_batch() -> None:
    sizes = batch_sizes(COUPLED, "autoattack") - {6}  # 6: the labels and the natural pass
    assert max(sizes) == 4 and min(sizes) < 4


def test_published_is_seeded_by_run_seed_attack_batch_and_chunk() -> None:
    network, unit = small_network(), 3
    given = context(network, None, unit)
    view = BatchView(
        network, given.images, given.labels, ThreatModel.of(given.spec.attack), whole=False
    )
    expected = run_attack(
        view,
        given.spec.attack,
        given.natural,
        5,
        seed_of=lambda name, chunk: derive_seed(5, name, unit, chunk),
        chunk=4,
    )
    got = published(given)
    assert torch.equal(got.points, expected.points)
    assert got.broken_by == expected.broken_by
    assert not torch.equal(got.points, published(replace(given, unit=unit + 1)).points)
    other = replace(given.spec, seed=6)
    assert not torch.equal(got.points, published(replace(given, spec=other)).points)


def test_transfer_hands_on_the_static_models_points_where_it_has_no_others() -> None:
    network = small_network()
    points = tiny_images(6, seed=9)
    given = context(network, COUPLED, static_points=points, batching="autoattack")
    given = replace(given, natural=torch.tensor([True, False, True, True, True, False]))
    result = transfer(given)
    assert torch.equal(result.points, points)
    assert torch.equal(result.robust, given.natural)
    assert result.broken_by == ("", "natural", "", "", "", "natural")
