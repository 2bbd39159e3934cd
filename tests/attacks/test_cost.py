"""The cost formulas against counted calls, and against the counts known of AutoAttack."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from dentbench.attacks.budget import KEPT_BATCHES, WITNESSES, compositions_attacked
from dentbench.attacks.catalogue import DEFAULT_PROTOCOLS
from dentbench.attacks.cost import Passes, adapted, attack_passes, stage_passes, witness_passes
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.records.outcome import NATURAL
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import (
    NORMS,
    AttackSpec,
    BatchPlan,
    DataSpec,
    DentSpec,
    EvalSpec,
    ModelSpec,
)
from tests.attacks.toys import NearlyConstant, attacked, tiny_images

EPS = Fraction(1, 20)


def counted(spec: AttackSpec, classes: int, images: int = 2) -> Passes:
    """Attack a network that nothing breaks, and count its single-image passes."""
    counter = CallCounter()
    network = CountedNetwork(NearlyConstant(classes), counter)
    x, y = tiny_images(images), torch.zeros(images, dtype=torch.long)
    everything = torch.ones(images, dtype=torch.bool)
    result, _ = attacked(network, x, y, spec, classes=classes, natural=everything)
    assert result.robust.all()
    assert counter.forwards % images == counter.backwards % images == 0
    return Passes(counter.forwards // images, counter.backwards // images)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *((name, norm) for name in ("standard", "quick") for norm in NORMS),
        *((name, "L2") for name in ATTACKS if name not in ("standard", "quick", "none")),
        ("plus", "L1"),
        ("rand", "L1"),
    ],
)
def test_the_formula_equals_what_is_counted(name: str, norm: str) -> None:
    spec = AttackSpec(name=name, norm=norm, eps=EPS, iterations=2, queries=4)
    assert counted(spec, classes=12) == attack_passes(spec, 12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("name", "classes", "budget"),
    [
        ("standard", 2, {"iterations": 3, "queries": 1}),
        ("standard", 6, {"iterations": 4, "queries": 3, "targets": 2}),
        ("plus", 4, {"iterations": 2, "queries": 2, "targets": 9}),
    ],
)
def test_the_formula_holds_for_few_classes_and_other_budgets(
    name: str, classes: int, budget: dict[str, int], norm: str
) -> None:
    spec = AttackSpec(name=name, norm=norm, eps=EPS, **budget)
    assert counted(spec, classes) == attack_passes(spec, classes)


@pytest.mark.parametrize(
    ("name", "forwards", "backwards"),
    [
        ("apgd-ce", 102, 101),
        ("apgd-t", 919, 909),
        ("fab-t", 1828, 900),
        ("square", 5003, 0),
        ("standard", 102 + 919 + 1828 + 5003 + 3, 101 + 909 + 900),
    ],
)
def test_full_budgets_on_ten_classes(name: str, forwards: int, backwards: int) -> None:
    """Counts made of pyautoattack 0.2.0 itself; one more forward is our judgement of the part."""
    assert attack_passes(AttackSpec(name=name), 10) == Passes(forwards + 1, backwards)


def test_the_default_budget_of_a_part_is_what_runs() -> None:
    assert counted(AttackSpec(name="apgd-ce", eps=EPS), 3, images=1) == Passes(103, 101)
    quick = AttackSpec(name="quick", eps=EPS)
    assert counted(quick, 5, images=1) == attack_passes(quick, 5)


def test_each_step_of_dent_costs_a_forward_and_a_backward_per_forward() -> None:
    once = Passes(10, 3)
    assert adapted(once, None) == adapted(once, DentSpec(steps=0)) == once
    assert adapted(once, DentSpec(steps=6)) == Passes(10 * 7, 3 + 10 * 6)


def test_passes_add_and_multiply() -> None:
    assert (Passes(1, 2) + Passes(3, 4)) * 10 == Passes(40, 60)


DEFENSES: dict[str, DentSpec | None] = {
    "static": None,
    "no-steps": DentSpec(steps=0),
    "instance-coupled": DentSpec(steps=1),
    "instance-separable": DentSpec(steps=2, loss="entropy"),
    "batch": DentSpec(mode="batch", steps=1),
}


@pytest.mark.parametrize(
    ("name", "defense"), [*(("standard", defense) for defense in DEFENSES), ("fab", "batch")]
)
def test_stages_cost_what_the_runner_counts(name: str, defense: str, tmp_path: Path) -> None:
    images, classes = 5, 3
    settings: dict[str, Any] = {"iterations": 2, "queries": 2, "targets": 1}
    spec = EvalSpec(
        model=ModelSpec(name="nearly constant", sha256="0"),
        data=DataSpec(name="noise", sha256="1", first=0, count=images),
        batches=BatchPlan(size=3),
        attack=AttackSpec(name=name, eps=EPS, **settings),
        defense=DEFENSES[defense],
    )
    subject = RunInputs(
        network=NearlyConstant(classes),
        images=tiny_images(images),
        labels=torch.zeros(images, dtype=torch.long),
    )
    evaluation = Evaluation(subject, RunOptions(results=tmp_path))
    for stage in (NATURAL, *DEFAULT_PROTOCOLS) if spec.defense else (NATURAL, "published"):
        outcomes = evaluation.outcomes(spec, stage)
        assert all(all(outcome.correct) for outcome in outcomes)
        passes = stage_passes(spec, stage, classes)
        if not spec.separable and stage not in (NATURAL, "published"):  # nothing breaks elsewhere
            kept = WITNESSES + (KEPT_BATCHES + len(compositions_attacked(spec))) * (
                stage == "batch-mates"
            )
            passes += witness_passes(spec, kept) * -1
        assert sum(outcome.forwards for outcome in outcomes) == passes.forwards * images, stage
        assert sum(outcome.backwards for outcome in outcomes) == passes.backwards * images, stage


def test_a_witness_is_shown_to_the_defense_and_to_the_static_model() -> None:
    spec = EvalSpec(
        model=ModelSpec(name="m", sha256="0"),
        data=DataSpec(name="d", sha256="1", first=0, count=4),
        attack=AttackSpec(name="quick"),
        defense=DentSpec(mode="batch", steps=3),
    )
    # Three of them, each 3 + 1 forwards and 3 backwards of dent, and one forward.
    assert witness_passes(spec) == Passes(3 * (3 + 1 + 1), 3 * 3)


def test_a_protocol_of_ones_own_is_taken_to_cost_as_much_as_the_published() -> None:
    spec = EvalSpec(
        model=ModelSpec(name="m", sha256="0"),
        data=DataSpec(name="d", sha256="1", first=0, count=4),
        attack=AttackSpec(name="quick"),
        defense=DentSpec(steps=2),
    )
    assert stage_passes(spec, "noise", 10) == stage_passes(spec, "published", 10)
