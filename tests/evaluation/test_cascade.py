"""The suite through the runner: every protocol, norm and mode; cascades; resumes; costs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from dentbench.attacks.base import ThreatModel
from dentbench.attacks.budget import KEPT_BATCHES, WITNESSES
from dentbench.attacks.catalogue import PROTOCOLS, with_prerequisites
from dentbench.attacks.cost import stage_passes, witness_passes
from dentbench.defenses.naming import built_in
from dentbench.errors import SpecError
from dentbench.evaluation import cascade, stage_outcomes
from dentbench.evaluation.applicable_protocols import possible
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import BatchOutcome
from dentbench.spec.evaluation import DentSpec, EvalSpec, ProtocolSpec
from tests.attacks.contexts import BATCHWISE, COUPLED, SEPARABLE, evaluation_of, flags_of, spec_of
from tests.attacks.toys import labels_of, small_network, tiny_images

ALL = frozenset({"adapt", "predict", "unroll", "trajectory", "with_steps"})
MODES = {"alone": SEPARABLE, "shot": COUPLED, "batch": BATCHWISE}
EPS = {"Linf": Fraction(1, 50), "L2": Fraction(3, 20)}


def usable(spec: EvalSpec) -> list[str]:
    return [name for name, card in PROTOCOLS.items() if not card.reason_to_skip(spec, ALL)]


def same(ours: BatchOutcome, theirs: BatchOutcome) -> bool:
    return replace(ours, seconds=0.0) == replace(theirs, seconds=0.0)


@pytest.mark.parametrize(
    ("mode", "norm", "cascaded"),
    [
        ("alone", "L2", False),
        ("shot", "L2", True),
        ("batch", "Linf", True),
    ],
)
def test_every_protocol_runs_stays_in_the_ball_and_within_its_cost(
    mode: str, norm: str, cascaded: bool, tmp_path: Path
) -> None:
    spec = spec_of(
        3, MODES[mode], norm=norm, eps=EPS[norm], iterations=3, cascade=cascaded, queries=4, batch=2
    )
    evaluation = evaluation_of(spec, tmp_path, keep=True)
    names = usable(spec)
    skipped = set(PROTOCOLS) - set(names)
    assert skipped - {"poisoned-stream"} == ({"eot", "batch-mates"} if mode == "alone" else set())
    images, threat = evaluation.inputs.images, ThreatModel.of(spec.attack)
    folder = RunFolder(tmp_path, spec)
    for name in names:
        outcomes = evaluation.outcomes(spec, name)
        points = torch.cat([torch.from_numpy(folder.load_points(name, u)) for u in (0, 1)])
        assert threat.contains(points, images).all()
        assert [len(outcome.correct) for outcome in outcomes] == [2, 1]
        bound = stage_passes(spec, name, evaluation.worker.classes)
        assert sum(o.forwards for o in outcomes) <= bound.forwards * 3
        assert sum(o.backwards for o in outcomes) <= bound.backwards * 3
        for outcome in outcomes:
            for right, judged, by in zip(
                outcome.correct, outcome.judged, outcome.broken_by, strict=True
            ):
                assert judged or not right
                assert not (right and by not in ("", name))


@pytest.mark.parametrize("mode", list(MODES))
def test_where_nobody_is_broken_the_cost_is_the_bound(mode: str, tmp_path: Path) -> None:
    """Gradient views cost to the letter what the dry run says, for images that survive."""
    spec = spec_of(2, MODES[mode], eps=Fraction(1, 10**6), iterations=3, batch=2, queries=5)
    evaluation = evaluation_of(spec, tmp_path)
    for name in usable(spec):
        (outcome,) = evaluation.outcomes(spec, name)
        assert all(outcome.correct) or name == "batch-mates"
        bound = stage_passes(spec, name, evaluation.worker.classes)
        if not spec.separable and name != "published":  # no image is wrong in another batch
            kept = WITNESSES + KEPT_BATCHES * (name == "batch-mates")
            bound += witness_passes(spec, kept) * -1
        actual = (outcome.forwards / 2, outcome.backwards / 2)
        if name in ("batch-mates", "fpa", "gmsa-avg", "gmsa-min"):  # shares and refreshes vary
            assert actual[0] <= bound.forwards and actual[1] <= bound.backwards
            assert actual[0] >= 0.5 * bound.forwards
        elif name != "published":
            assert actual == (bound.forwards, bound.backwards), name


@pytest.mark.parametrize("name", ["hedge", "ttc"])
def test_a_random_defense_costs_the_answers_that_its_points_are_judged_by(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_outcomes, "found_random", lambda folder: True)
    spec = spec_of(2, eps=Fraction(1, 10**6), iterations=3, batch=2, queries=60)
    spec = replace(spec, defense=built_in(name, {"steps": 2}))
    x = tiny_images(2)
    subject = RunInputs(network=small_network(), images=x, labels=labels_of(small_network(), x))
    evaluation = Evaluation(subject, RunOptions(results=tmp_path))
    protocols = possible(evaluation.context, spec, tuple(PROTOCOLS))
    assert {"transfer", "warm", "eot", "decision", "unrolled"} <= {*protocols}
    for stage in protocols:
        (outcome,) = evaluation.outcomes(spec, stage)
        bound = stage_passes(spec, stage, evaluation.worker.classes, random=True)
        assert all(outcome.correct), stage
        actual = (outcome.forwards / 2, outcome.backwards / 2)
        shared = stage in ("batch-mates", "fpa", "gmsa-avg", "gmsa-min", "published")
        if shared or name == "ttc":  # its views multiply the static model's passes too
            assert actual[0] <= bound.forwards and actual[1] <= bound.backwards, stage
            assert actual[0] >= 0.5 * bound.forwards, stage
        else:
            assert actual == (bound.forwards, bound.backwards), stage


@pytest.mark.parametrize("defense", [SEPARABLE, COUPLED], ids=["alone", "shot"])
def test_a_cascade_starts_from_what_came_before(defense: DentSpec, tmp_path: Path) -> None:
    spec = spec_of(12, defense, eps=Fraction(1, 100), iterations=6, batch=12)
    evaluation = evaluation_of(spec, tmp_path)
    flags = flags_of(evaluation, spec, "unrolled")  # runs what comes before by itself
    folder = RunFolder(tmp_path, spec)
    before = [True] * 12
    for name in ("transfer", "surrogate", "warm"):
        outcome = folder.load(name, 0, with_points=True)
        assert outcome is not None, "the points are kept for those that start from them"
        now = list(outcome.correct)
        # An image that an earlier stage broke stays broken, and keeps its points.
        assert all(was or not still for was, still in zip(before, now, strict=True))
        before = now
    assert sum(flags) <= sum(before) < 12
    later = folder.load("unrolled", 0)
    assert later is not None
    inherited = [row for row, right in enumerate(before) if not right]
    assert all(later.broken_by[row] in ("transfer", "surrogate", "warm") for row in inherited)


def test_the_points_of_settled_images_are_handed_on(tmp_path: Path) -> None:
    spec = spec_of(12, SEPARABLE, eps=Fraction(1, 100), iterations=6, batch=12)
    evaluation = evaluation_of(spec, tmp_path)
    evaluation.outcomes(spec, "warm")
    folder = RunFolder(tmp_path, spec)
    actual = cascade.inheritance(folder, RunFolder(tmp_path, spec.static), spec, "fpa", 0)
    assert len(actual.starts) == 3
    assert any(actual.settled_by)
    for row, name in enumerate(actual.settled_by):
        if name:
            points = folder.load_points(name, 0)
            assert actual.settled_points is not None
            assert np.array_equal(actual.settled_points[row], points[row])


def test_what_is_asked_for_does_not_change_what_is_found(tmp_path: Path) -> None:
    spec = spec_of(4, SEPARABLE, iterations=3)
    together = evaluation_of(spec, tmp_path / "together")
    for name in usable(spec):
        together.outcomes(spec, name)
    for name in ("gmsa-min", "scores", "decision"):
        alone = evaluation_of(spec, tmp_path / name)
        (ours,), (theirs,) = alone.outcomes(spec, name), together.outcomes(spec, name)
        assert same(ours, theirs)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.sweep)])
def test_a_cascade_loses_little_against_every_protocol_alone(seed: int, tmp_path: Path) -> None:
    """In all, fewer images survive a cascade than survive the protocols one by one, or as many."""
    spec = spec_of(16, SEPARABLE, eps=Fraction(1, 125), iterations=8, batch=16, seed=seed)
    evaluation = evaluation_of(spec, tmp_path, seed)
    alone = replace(spec, protocols=ProtocolSpec(cascade=False))
    names = ["transfer", "surrogate", "warm", "fpa", "gmsa-avg", "unrolled"]
    worst = {
        kind: [
            all(flags)
            for flags in zip(*(flags_of(evaluation, item, n) for n in names), strict=True)
        ]
        for kind, item in (("cascade", spec), ("alone", alone))
    }
    assert sum(worst["cascade"]) <= sum(worst["alone"])
    assert sum(flags_of(evaluation, alone, "unrolled")) >= sum(worst["alone"])


RESUMED = ("surrogate", "gmsa-avg", "scores", "decision", "eot", "batch-mates")
UNINTERRUPTED = spec_of(9, COUPLED, iterations=3, batch=3, queries=4)


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, list[BatchOutcome]]]:
    results = tmp_path_factory.mktemp("uninterrupted")
    evaluation = evaluation_of(UNINTERRUPTED, results)  # outcomes alone: no check is made
    return results, {name: [*evaluation.outcomes(UNINTERRUPTED, name)] for name in RESUMED}


@pytest.mark.parametrize("stage", RESUMED)
def test_resumed_equals_uninterrupted(
    stage: str, uninterrupted: tuple[Path, dict[str, list[BatchOutcome]]], tmp_path: Path
) -> None:
    spec, (results, whole) = UNINTERRUPTED, uninterrupted
    shutil.copytree(results, tmp_path / "resumed")
    for name in (stage, "transfer"):  # killed in the middle: a batch of each stage is missing
        (RunFolder(tmp_path / "resumed", spec).path / name / "00001.npz").unlink()
    again = evaluation_of(spec, tmp_path / "resumed").outcomes(spec, stage)
    assert all(same(ours, theirs) for ours, theirs in zip(again, whole[stage], strict=True))


def test_the_protocols_settings_do_not_touch_the_static_model() -> None:
    spec = spec_of(4, cascade=False, rounds=7)
    assert spec.static == spec_of(4).static
    assert spec.counterpart.key() == spec.static.key()
    assert spec.key() != spec_of(4).key()


@pytest.mark.parametrize(
    "bad",
    [
        {"rounds": 0},
        {"last": 0},
        {"every": 1.5},
        {"queries": 0},
        {"fractions": (0.0,)},
        {"fractions": (2.0,)},
        {"cascade": "yes"},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        ProtocolSpec(**bad)  # type: ignore[arg-type]


def test_prerequisites_come_in_order_and_reasons_have_names() -> None:
    spec = spec_of(4)
    assert with_prerequisites(["unrolled"], spec) == ("transfer", "surrogate", "warm", "unrolled")
    cold = spec_of(4, cascade=False)
    assert with_prerequisites(["unrolled"], cold) == ("unrolled",)
    for name, card in PROTOCOLS.items():
        assert all(list(PROTOCOLS).index(e) < list(PROTOCOLS).index(name) for e in card.after)
        assert card.summary and card.source
    assert "no adapt and no predict" in PROTOCOLS["fpa"].reason_to_skip(spec, ())
    assert "not L1" in PROTOCOLS["warm"].reason_to_skip(spec_of(4, norm="L1"), ALL)
    packed = replace(spec, batches=replace(spec.batches, batching="autoattack"))
    assert "AutoAttack's own packing" in PROTOCOLS["warm"].reason_to_skip(packed, ALL)
    assert PROTOCOLS["eot"].reason_to_skip(spec, ALL)
    assert not PROTOCOLS["eot"].reason_to_skip(spec, ALL | {"random"})
    assert not PROTOCOLS["published"].reason_to_skip(packed, ())


def total(spec: EvalSpec, names: list[str]) -> float:
    passes = [stage_passes(spec, name, 10) for name in names]
    return sum(pass_.forwards + pass_.backwards for pass_ in passes)


@pytest.mark.parametrize(
    "defense",
    [DentSpec(loss="entropy"), DentSpec(), DentSpec(mode="batch")],
    ids=["alone", "shot", "batch"],
)
def test_the_verdict_costs_at_most_half_of_published(defense: DentSpec) -> None:
    spec = replace(spec_of(128, defense), attack=replace(spec_of(1).attack, name="standard"))
    spec = replace(spec, attack=replace(spec.attack, iterations=None, targets=None))
    names = [name for name in usable(spec) if name != "published"]
    assert total(spec, names) <= 0.5 * total(spec, ["published"])


@pytest.mark.sweep
def test_and_so_it_is_counted(tmp_path: Path) -> None:
    """AutoAttack standard at a fifth of its iterations and queries, with three steps.

    The long form: that the bounds are what is counted, stands above.
    """
    spec = spec_of(
        2,
        replace(SEPARABLE, steps=3),
        attack="standard",
        eps=Fraction(1, 200),
        iterations=20,
        queries=1000,
        targets=9,
        batch=2,
    )
    evaluation = evaluation_of(spec, tmp_path, classes=10)
    spent = {
        name: sum(o.forwards + o.backwards for o in evaluation.outcomes(spec, name))
        for name in usable(spec)
    }
    published = spent.pop("published")
    assert sum(spent.values()) <= 0.5 * published
