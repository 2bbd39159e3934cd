"""Counts by class and by the first attack to break, against counting by hand; images kept."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch

from dentbench.adapt.dent import Dent
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.records import examples, per_class
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import BatchOutcome, Record
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DataSpec, DentSpec, EvalSpec, ModelSpec
from tests.reference import tiny_network

SIZE, COUNT = 4, 10


def outcome(stage: str, index: int, correct: str, broken_by: str) -> BatchOutcome:
    flags = tuple(item == "1" for item in correct)
    names = tuple({".": "", "n": "natural", "c": "apgd-ce", "t": "apgd-t"}[b] for b in broken_by)
    return BatchOutcome(
        stage=stage,
        index=index,
        correct=flags,
        attack_correct=flags,
        broken_by=names,
        forwards=1,
        backwards=1,
        seconds=0.0,
    )


def test_break_down_counts_every_image_once() -> None:
    stages = {
        "natural": [outcome("natural", 0, "1110", "...n"), outcome("natural", 1, "11", "..")],
        "published": [outcome("published", 0, "0110", "c..n"), outcome("published", 1, "01", "t.")],
        "transfer": [outcome("transfer", 0, "0011", ".n.."), outcome("transfer", 1, "01", "..")],
    }
    actual = per_class.break_down(stages, [0, 1, 1, 2, 0, 2], 4)
    assert actual.images == (2, 2, 2, 0)
    assert actual.right == {
        "natural": (2, 2, 1, 0),
        "published": (0, 2, 1, 0),
        "transfer": (0, 1, 1, 0),  # the last of the first batch was wrong before
        "worst": (0, 1, 1, 0),
    }
    assert actual.broken == {
        "published": {"apgd-ce": (1, 0, 0, 0), "apgd-t": (1, 0, 0, 0)},
        "transfer": {},
    }
    assert actual.first == {
        "natural": (0, 0, 1, 0),
        "published": (2, 0, 0, 0),
        "transfer": (0, 1, 0, 0),
        "survives": (0, 1, 1, 0),
    }
    sums = [sum(counts) for counts in zip(*actual.first.values(), strict=True)]
    assert tuple(sums) == actual.images


def evaluated(folder: Path, defense: DentSpec) -> tuple[Evaluation, EvalSpec, Record]:
    images = torch.rand(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = tiny_network()(images).argmax(1)
    static = EvalSpec(
        model=ModelSpec(name="toy", sha256="0"),
        data=DataSpec(name="noise", sha256="1", first=0, count=COUNT),
        batches=BatchPlan(size=SIZE),
        attack=AttackSpec(name="apgd-ce", eps=Fraction(8, 255), iterations=2),
    )
    subject = RunInputs(network=tiny_network(), images=images, labels=labels)
    evaluation = Evaluation(subject, RunOptions(results=folder, save_adversarial=True))
    spec = replace(static, defense=defense)
    _, record = evaluation.run([static, spec], ["published", "transfer"])
    return evaluation, spec, record


def test_a_run_keeps_its_counts_and_images(tmp_path: Path) -> None:
    defense = DentSpec(mode="batch", steps=2, lr=0.05, blur="dynamic", sigma=0.6)
    evaluation, spec, record = evaluated(tmp_path, defense)
    counts = per_class.load(tmp_path, record.key)
    assert counts is not None
    assert {name: sum(counts.right[name]) for name in record.protocol_counts} == (
        record.protocol_counts
    )
    assert sum(counts.right["worst"]) == sum(counts.first["survives"]) == record.robust_correct
    kept = examples.load(tmp_path, record.key)
    assert kept is not None and 0 < len(kept.index) <= SIZE
    assert kept.clean.shape == kept.blurred.shape == (len(kept.index), 8, 8, 3)

    # Every prediction is what dent, adapted to the whole declared batch, says of it.
    dent, network = Dent(tiny_network(), defense), tiny_network()
    batch = evaluation.inputs.images[:SIZE]
    folder = RunFolder(tmp_path, spec)
    for row, image in enumerate(kept.index.tolist()):
        points = folder.points(str(kept.protocol[row]), 0)
        assert points is not None
        adversarial = torch.from_numpy(points)
        wanted = [
            network(batch)[image].argmax(),
            dent(batch)[image].argmax(),
            network(adversarial)[image].argmax(),
            dent(adversarial)[image].argmax(),
        ]
        assert kept.predicted[row].tolist() == [int(item) for item in wanted]
        shown = (adversarial[image] * 255).round().permute(1, 2, 0).byte()
        assert torch.equal(torch.from_numpy(kept.adversarial[row]), shown)


def test_a_repeated_run_rewrites_nothing(tmp_path: Path) -> None:
    defense = DentSpec(mode="batch", steps=1)
    evaluated(tmp_path, defense)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    evaluated(tmp_path, defense)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after and any(path.name == examples.FILE for path in before)
