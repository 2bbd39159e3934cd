"""Whole evaluations on a GPU: every protocol, twice the same, resumed, short of memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.workers.placement import Placement
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import AttackSpec, DentSpec, EvalSpec
from tests.compute.networks import attacked_network
from tests.gpu.runs import ON_GPU, on_resnet20

QUICK = AttackSpec(name="quick", eps=Fraction(1, 50), iterations=3, targets=1, queries=8)


def evaluation(results: Path, **how: object) -> tuple[Evaluation, EvalSpec, EvalSpec]:
    """Return what evaluates a small network on a GPU; its static spec, and dent's."""
    subject, static = attacked_network(16, iterations=3)
    static = replace(static, attack=QUICK)
    options = RunOptions(results=results, placement=ON_GPU, save_adversarial=True)
    run = Evaluation(subject, replace(options, **how))
    return run, static, replace(static, defense=DentSpec(steps=2, lr=0.02))


def run(results: Path, protocols: list[str], **how: object) -> Record:
    """Evaluate dent; return its record."""
    result, static, dent = evaluation(results, **how)
    return result.run([static, dent], protocols)[1]


def points(results: Path, spec: EvalSpec, stage: str) -> list[np.ndarray]:
    """Return a stage's final points, batch by batch."""
    return [RunFolder(results, spec).load_points(stage, unit) for unit in range(2)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A results folder that the protocols have in common: what they start from is run once."""
    yield tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_protocol_runs(name: str, shared: Path) -> None:
    record = run(shared, [name])
    assert record.n == 16
    assert name in record.protocol_counts or name in (record.skipped or "")


def test_two_runs_find_the_same_points(tmp_path: Path) -> None:
    folders = tmp_path / "one", tmp_path / "other"
    records = [run(folder, ["published", "unrolled"]) for folder in folders]
    assert records[0].protocol_counts == records[1].protocol_counts
    dent = evaluation(tmp_path / "third")[2]
    for stage in ("published", "unrolled"):
        for item, other in zip(*(points(folder, dent, stage) for folder in folders), strict=True):
            assert np.array_equal(item, other), stage


def test_a_resumed_run_finds_the_same_points(tmp_path: Path) -> None:
    whole = run(tmp_path, ["published"])
    dent = evaluation(tmp_path)[2]
    before = points(tmp_path, dent, "published")
    folder = RunFolder(tmp_path, dent).path
    (folder / "published" / "00001.npz").unlink()
    again = run(tmp_path, ["published"])
    assert again.protocol_counts == whole.protocol_counts
    for item, other in zip(before, points(tmp_path, dent, "published"), strict=True):
        assert np.array_equal(item, other)
    shutil.rmtree(folder)


def test_nearly_the_same_images_break_as_on_the_cpu(tmp_path: Path) -> None:
    placement = Placement(devices=("cpu",), workers=1)
    on_cpu = run(tmp_path / "cpu", ["published"], placement=placement)
    on_gpu = run(tmp_path / "gpu", ["published"])
    assert on_gpu.natural_correct == on_cpu.natural_correct
    difference = on_gpu.protocol_counts["published"] - on_cpu.protocol_counts["published"]
    assert abs(difference) <= 2


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_low_precision_is_judged_again(precision: str, tmp_path: Path) -> None:
    actual, static, dent = evaluation(tmp_path)
    specs = [replace(item, precision=precision) for item in (static, dent)]
    record = actual.run(specs, ["published", "transfer"])[1]
    assert record.precision == precision
    assert record.rechecked is not None


def test_two_workers_on_one_gpu_find_the_same(tmp_path: Path) -> None:
    two = Placement(devices=("cuda:0", "cuda:0"))
    actual = []
    for name, placement in (("one", ON_GPU), ("two", two)):
        torch.manual_seed(0)
        record, spec = on_resnet20(tmp_path / name, 16, 8, DentSpec(steps=2), placement)
        actual.append((record.protocol_counts, points(tmp_path / name, spec, "published")))
    assert actual[0][0] == actual[1][0]
    for item, other in zip(actual[0][1], actual[1][1], strict=True):
        assert np.allclose(item, other, atol=1e-5)
