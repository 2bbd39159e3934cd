"""The protocols' settings: each changes the protocols that say that they heed it, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dentbench.adapt.dent import Dent
from dentbench.attacks.budget import ascents_of
from dentbench.attacks.catalogue import DEFAULT_PROTOCOLS, PROTOCOLS, heeded
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.defenses.tent import tent_online
from dentbench.spec.evaluation import AttackSpec, EvalSpec, ProtocolSpec, field_names
from tests.attacks.contexts import COUPLED, context_of, run, spec_of
from tests.attacks.toys import labels_of, small_network, tiny_images

OTHER = {
    "cascade": False,
    "iterations": 6,
    "targets": 1,
    "rounds": 2,
    "restarts": 1,
    "last": 1,
    "every": 2,
    "draws": 3,
    "eot": "mean",
    "queries": 3,
    "fractions": (0.5,),
}
OWN = [name for name, card in PROTOCOLS.items() if card.own_attack]


def trace(stage: str, **settings: Any) -> tuple[Any, ...]:
    """A protocol's result and its questions, on a few images and from a given start."""
    norm = "L2" if stage == "eot" else "Linf"  # signs of gradients hide most of their weights
    spec = spec_of(6, COUPLED, norm=norm, iterations=4, targets=2)
    attack = replace(spec.attack, queries=5)
    spec = replace(spec, attack=attack, protocols=ProtocolSpec(**settings))
    network = small_network()
    x = tiny_images(6)
    y = labels_of(network, x)
    counter = CallCounter()
    counted = CountedNetwork(network, counter)
    dent = Dent(counted, COUPLED)

    def fewer(steps: int, *, larger: bool = False) -> Dent:
        spec = COUPLED.with_larger_steps(steps) if larger else COUPLED.with_steps(steps)
        return Dent(counted, spec)

    context = context_of(
        dent,
        counted,
        x,
        y,
        spec,
        starts=(x,) if spec.protocols.cascade else (),
        with_steps=fewer,
        stream=(tent_online(counted, lr=0.1), (x.flip(0),)),
    )
    result = run(stage, context)
    return result.points, (result.details, counter.forwards, counter.backwards)


def differ(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    return ours[1] != theirs[1] or not torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("stage", OWN)
def test_a_protocol_heeds_what_its_card_says(stage: str) -> None:
    assert set(OTHER) | {"draws_judged"} == set(field_names(ProtocolSpec))  # the judge heeds it
    cascade, cold = trace(stage), trace(stage, cascade=False)
    assert differ(cascade, cold) or stage in (
        "batch-mates",
        "poisoned-stream",
    )  # which have no ascents
    own = heeded([stage]) & OTHER.keys() - {"cascade"}
    for name in own:
        changed = {name: OTHER[name]}  # a cascade leaves some targets to the stages before
        assert differ(trace(stage, **changed), cascade) or differ(
            trace(stage, cascade=False, **changed), cold
        ), name
    others = {name: OTHER[name] for name in OTHER.keys() - {"cascade"} - own}
    for expected, how in ((cascade, {}), (cold, {"cascade": False})):
        assert not differ(trace(stage, **how, **others), expected), others.keys()


def test_published_and_transfer_heed_nothing() -> None:
    assert heeded(DEFAULT_PROTOCOLS) == {"draws_judged"}


def standard(**settings: Any) -> EvalSpec:
    attack, own = AttackSpec(name="standard"), ProtocolSpec(**settings)
    return replace(spec_of(4, COUPLED), attack=attack, protocols=own)


@pytest.mark.parametrize("stage", ["fpa", "gmsa-avg", "gmsa-min"])
def test_alone_the_ensemble_attacks_have_the_budget_of_their_code(stage: str) -> None:
    """3 rounds of 100 steps, from 5 random starts and towards 9 targets (arXiv 2110.14735)."""
    spec = standard(cascade=False)
    ascents = ascents_of(spec, stage, 10)
    assert spec.protocols.rounds == 3
    assert {ascent.iterations for ascent in ascents} == {100}
    assert {(ascent.loss, ascent.start) for ascent in ascents} == {("margin", "random")}
    assert [ascent.rank for ascent in ascents] == [*[None] * 5, *range(9)]


def test_what_is_given_is_what_is_run() -> None:
    own = standard(cascade=False, restarts=2, targets=4, iterations=30)
    assert [(item.rank, item.iterations) for item in ascents_of(own, "fpa", 10)] == [
        *[(None, 30)] * 2,
        *((rank, 30) for rank in range(4)),
    ]
    warm = [item.start for item in ascents_of(standard(restarts=2, targets=1), "fpa", 10)]
    assert warm == ["best", "random", "random", "best"]
