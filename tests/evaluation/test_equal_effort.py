"""The static model faces the same as a defense: a defense that does nothing makes no difference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from dentbench.attacks.catalogue import COUNTERPARTS, PROTOCOLS
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.records.aggregate import static_cases
from dentbench.records.outcome import NATURAL, PUBLISHED, TRANSFER_BACK, BatchOutcome, Record
from dentbench.spec.evaluation import DefenseSpec, EvalSpec
from tests.attacks.contexts import spec_of
from tests.attacks.toys import labels_of, small_network, tiny_images

IMAGES = 12


class Identity(nn.Module):
    """The static model, in two parts, so that every protocol can be run on it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def adapt(self, x: Tensor) -> Tensor:
        return x.new_zeros(())

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        return self.adapt(x)

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


def evaluation_of(results: Path, spec: EvalSpec, seed: int) -> Evaluation:
    network, images = small_network(5, seed), tiny_images(spec.data.count, seed)
    subject = RunInputs(network=network, images=images, labels=labels_of(network, images))
    assert isinstance(spec.defense, DefenseSpec)
    return Evaluation(subject, RunOptions(results=results), None, {spec.defense: Identity})


def identity_spec(*, separable: bool = True, seed: int = 0, **settings: Any) -> EvalSpec:
    spec = spec_of(IMAGES, iterations=3, batch=IMAGES // 2, seed=seed, queries=6, **settings)
    return replace(spec, defense=DefenseSpec(name="Identity", sha256="0", separable=separable))


def run(
    results: Path, spec: EvalSpec, protocols: tuple[str, ...] = tuple(PROTOCOLS)
) -> tuple[Record, Record]:
    static, defended = evaluation_of(results, spec, spec.seed).run([spec.static, spec], protocols)
    return static, defended


@pytest.mark.parametrize(
    ("seed", "separable", "cascade"), [(0, True, True), (1, False, True), (2, False, False)]
)
def test_a_defense_that_does_nothing_differs_in_nothing(
    seed: int, separable: bool, cascade: bool, tmp_path: Path
) -> None:
    spec = identity_spec(seed=seed, separable=separable, cascade=cascade)
    static, defended = run(tmp_path, spec)
    assert (defended.gained, defended.lost) == (0, 0)
    assert defended.static_correct == defended.robust_correct
    assert defended.robust_correct < defended.natural_correct
    counts = json.loads(defended.static_by_protocol or "")
    assert set(counts) == {PUBLISHED, TRANSFER_BACK, *COUNTERPARTS}
    assert counts[PUBLISHED] == static.robust_correct >= defended.static_correct


def test_the_static_record_is_of_its_own_attack_whatever_ran_beside(tmp_path: Path) -> None:
    spec = identity_spec()
    few, _ = run(tmp_path / "few", spec, ("published",))
    many, defended = run(tmp_path / "many", spec)
    assert few.robust_correct == many.robust_correct and few.passes == many.passes
    assert few.static_correct is None and few.static_by_protocol is None
    passes = json.loads(defended.passes or "")
    assert all(passes[f"static {name}"] > 0 for name in COUNTERPARTS)
    assert sum(passes.values()) == defended.forwards + defended.backwards


def test_only_what_was_tried_on_the_defense_counts_for_the_static_model(tmp_path: Path) -> None:
    _, alone = run(tmp_path / "a", identity_spec(), ("published",))
    assert set(json.loads(alone.static_by_protocol or "")) == {PUBLISHED}
    _, both = run(tmp_path / "b", identity_spec(), ("published", "transfer", "surrogate"))
    named = set(json.loads(both.static_by_protocol or ""))
    assert named == {PUBLISHED, TRANSFER_BACK, "surrogate"}


def test_what_a_run_asks_for_hides_nothing_that_an_earlier_one_found(tmp_path: Path) -> None:
    spec = identity_spec()
    _, whole = run(tmp_path, spec, ("published", "unrolled"))
    static, again = run(tmp_path, spec, ("published",))
    assert again.protocol_counts == whole.protocol_counts, "what unrolled started from counts too"
    assert set(again.protocol_counts) == {"published", "transfer", "surrogate", "warm", "unrolled"}
    assert again.robust_correct == whole.robust_correct
    assert (again.gained, again.lost) == (whole.gained, whole.lost)
    assert static.protocol == "published"
    _, more = run(tmp_path, spec, ("bpda",))
    assert set(more.protocol_counts) == {*again.protocol_counts, "bpda"}
    assert more.robust_correct <= whole.robust_correct
    folder = tmp_path / "runs" / spec.key() / "unrolled"
    (folder / "00001.npz").unlink()  # an incomplete stage counts for nothing
    _, less = run(tmp_path, spec, ("published",))
    assert "unrolled" not in less.protocol_counts and "bpda" in less.protocol_counts


def test_counterparts_are_run_once_for_all_defenses(tmp_path: Path) -> None:
    spec = identity_spec()
    few = ("published", "transfer", *COUNTERPARTS)
    run(tmp_path, spec, few)
    files = sorted((tmp_path / "runs" / spec.static.key()).glob("protocols-*/*/*.npz"))
    assert len(files) == 2 * len(COUNTERPARTS)
    before = [file.stat().st_mtime_ns for file in files]
    run(tmp_path, identity_spec(separable=False), few)
    again = sorted((tmp_path / "runs" / spec.static.key()).glob("protocols-*/*/*.npz"))
    assert again == files and [file.stat().st_mtime_ns for file in files] == before
    run(
        tmp_path, identity_spec(separable=False, every=2), few
    )  # other settings, other counterparts
    assert len([*(tmp_path / "runs" / spec.static.key()).glob("protocols-*")]) == 2


def outcome(stage: str, correct: list[bool], static: tuple[bool, ...] = ()) -> BatchOutcome:
    return BatchOutcome(
        stage=stage,
        index=0,
        correct=tuple(correct),
        attack_correct=tuple(correct),
        broken_by=("",) * len(correct),
        forwards=1,
        backwards=1,
        seconds=0.0,
        static_correct=static,
    )


def test_points_found_on_the_defense_break_the_static_model_too() -> None:
    stages = {
        NATURAL: [outcome(NATURAL, [True, True, True])],
        "published": [outcome("published", [True, True, True], (True, False, True))],
        "transfer": [outcome("transfer", [True, True, False], (True, True, True))],
    }
    static = {
        NATURAL: [outcome(NATURAL, [True, True, True])],
        "published": [outcome("published", [True, True, False])],
    }
    assert static_cases(stages, static) == {
        NATURAL: (True, True, True),
        "published": (True, True, False),
        TRANSFER_BACK: (True, False, True),
    }
    del stages["transfer"]
    assert TRANSFER_BACK not in static_cases(stages, static)
