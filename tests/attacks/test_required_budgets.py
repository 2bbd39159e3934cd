"""The table of least budgets against the defaults, and budgets short of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dentbench.attacks import budget, required_budgets
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.required_budgets import REQUIRED, shortfalls, spent
from dentbench.spec.attack_plans import ATTACKS, AttackPlan
from dentbench.spec.dent import DentSpec
from dentbench.spec.evaluation import AttackSpec, DataSpec, EvalSpec, ModelSpec, ProtocolSpec

SPEC = EvalSpec(
    model=ModelSpec(name="net", sha256="ab"),
    data=DataSpec(name="data", sha256="cd", first=0, count=256),
    defense=DentSpec(),
)


def lacking(attack: AttackSpec | None = None, **settings: Any) -> dict[str, str]:
    spec = replace(SPEC, attack=attack or AttackSpec(), protocols=ProtocolSpec(**settings))
    return shortfalls({stage: spent(spec, stage) for stage in REQUIRED})


def test_the_defaults_are_the_table() -> None:
    """A default that becomes cheaper must not make a verdict cheaper: mend the default."""
    for stage, least in REQUIRED.items():
        actual = {name: value for name, value in spent(SPEC, stage).items() if name in least}
        assert actual == dict(least), stage
    assert REQUIRED.keys() >= PROTOCOLS.keys() - {"transfer"}, (
        "a new protocol has a least budget too"
    )
    assert lacking() == {}


@pytest.mark.parametrize(
    ("settings", "short"),
    [
        ({"iterations": 99}, {"surrogate", "warm", "bpda", "unrolled", "scores", "decision"}),
        ({"targets": 1}, {"surrogate", "fpa", "gmsa-avg", "gmsa-min"}),
        ({"rounds": 2}, {"fpa", "gmsa-avg", "gmsa-min"}),
        ({"queries": 499}, {"scores", "decision"}),
        ({"draws": 1}, {"eot"}),
        ({"every": 2}, {"surrogate", "few-steps", "surrogate-process", "eot"}),
        ({"last": 1}, {"unrolled"}),
        ({"fractions": (0.01, 0.05, 0.1)}, {"batch-mates"}),
        ({"fractions": (0.5,)}, {"batch-mates"}),
    ],
)
def test_every_shortened_setting_is_named(settings: dict[str, Any], short: set[str]) -> None:
    actual = lacking(**settings)
    assert actual.keys() >= short, actual
    assert "published" not in actual and "transfer" not in actual


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 200, "rounds": 5, "draws": 4, "queries": 5000, "restarts": 2},
        {"cascade": False},
        {"cascade": False, "iterations": 1000, "every": 10},
        {"last": 6},
        {"fractions": (0.01, 0.05, 0.1, 0.5)},
    ],
)
def test_longer_ones_are_not_doubted(settings: dict[str, Any]) -> None:
    assert lacking(**settings) == {}


@pytest.mark.parametrize("name", ["standard", "plus"])
def test_autoattack_standard_and_plus_suffice(name: str) -> None:
    assert lacking(AttackSpec(name=name)) == {}
    assert lacking(AttackSpec(name=name, iterations=1000, queries=20_000)) == {}


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (AttackSpec(name="quick"), "apgd-ce iterations 10 of 100"),
        (AttackSpec(name="quick"), "no square queries"),
        (AttackSpec(iterations=50), "fab-t iterations 50 of 100"),
        (AttackSpec(queries=100), "square queries 100 of 5000"),
        (AttackSpec(targets=3), "apgd-t targets 3 of 9"),
        (AttackSpec(name="apgd-ce"), "no apgd-t iterations"),
        (AttackSpec(name="rand"), "no square queries"),
    ],
)
def test_a_weaker_attack_is_named(attack: AttackSpec, words: str) -> None:
    assert words in lacking(attack)["published"]


def test_rand_suffices_for_random_answers_alone() -> None:
    rand = spent(replace(SPEC, attack=AttackSpec(name="rand")), "published")
    assert shortfalls({"published": rand}, random=True) == {}
    short = spent(replace(SPEC, attack=AttackSpec(name="rand", iterations=20)), "published")
    assert (
        "apgd-ce iterations 20 of 100" in shortfalls({"published": short}, random=True)["published"]
    )


def test_a_plan_is_judged_by_its_parts_and_not_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans = {
        "all-parts": AttackPlan(parts=("apgd-ce", "apgd-t", "fab-t", "square"), title="mine"),
        "long": AttackPlan(
            parts=("square", "fab-t", "apgd-t", "apgd-dlr", "apgd-ce"), title="x", iterations=500
        ),
        "short": AttackPlan(
            parts=("apgd-ce", "apgd-t", "fab-t", "square"), title="y", iterations=20
        ),
    }
    for module in (budget, required_budgets):
        monkeypatch.setattr(module, "ATTACKS", {**ATTACKS, **plans})
    actual = {name: lacking(AttackSpec(name=name)) for name in plans}
    assert actual["all-parts"] == actual["long"] == {}
    assert {"published", "warm"} <= actual["short"].keys()
