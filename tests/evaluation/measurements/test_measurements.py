"""Diagnostics against a direct computation, the given order, and the notes of both."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dentbench.adapt.dent import Dent
from dentbench.errors import DataError
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.measurements import measurements
from dentbench.evaluation.measurements.measurements import balance, summarized
from dentbench.evaluation.runner import Evaluation
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DataSpec, DentSpec, EvalSpec, ModelSpec
from dentbench.zoo.images.arrays import Dataset, label_windows, slice_of
from tests.reference import tiny_network

ATTACK = AttackSpec(name="apgd-ce", eps=Fraction(1, 255), iterations=1)
COUNT, SIZE = 10, 4
BATCH = DentSpec(mode="batch", steps=2, lr=0.05, blur="dynamic", sigma=0.6)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    images = torch.rand(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = tiny_network()(images).argmax(1)
    labels[::3] = (labels[::3] + 1) % 10
    return Dataset(name="toy", images=images, labels=labels, classes=10)


def run(
    dataset: Dataset, folder: Path, defense: DentSpec, order: str = "given", **options: bool
) -> tuple[Record, Record]:
    given = slice_of(dataset)
    images, labels, data = slice_of(dataset, order=order)
    subject = RunInputs(network=tiny_network(), images=images, labels=labels)
    if order != "given":
        twin = replace(subject, images=given[0], labels=given[1])
        subject = replace(subject, given=(twin, given[2]))
    static = EvalSpec(
        model=ModelSpec(name="toy", sha256="0"),
        data=data,
        batches=BatchPlan(size=SIZE),
        attack=ATTACK,
    )
    evaluation = Evaluation(subject, RunOptions(results=folder, **options))
    result = evaluation.run([static, replace(static, defense=defense)], ["transfer"])
    return result[0], result[1]


def entropy(logits: Tensor) -> float:
    chances = logits.double().softmax(1)
    return float(-(chances * chances.log()).sum(1).mean())


@pytest.mark.parametrize(
    "defense", [BATCH, DentSpec(steps=1, lr=0.05, loss="entropy")], ids=["batch", "instance"]
)
def test_diagnostics_equal_a_direct_computation(
    dataset: Dataset, tmp_path: Path, defense: DentSpec
) -> None:
    _, record = run(dataset, tmp_path, defense, diagnostics=True)
    actual = json.loads(record.diagnostics or "")["natural"]
    network = tiny_network()
    dent = Dent(network, defense, batch_size=SIZE if defense.separable else None)
    sums: dict[str, float] = dict.fromkeys(("before", "after", "sigma", "gamma", "flips"), 0)
    for x in dataset.images.split(SIZE):
        start, adaptation = dent.start(), dent.adapt(x)
        after = dent.predict(x, adaptation)
        sums["before"] += entropy(dent.predict(x, start)) * len(x)
        sums["after"] += entropy(after) * len(x)
        if adaptation.sigma is not None:
            sums["sigma"] += float(adaptation.sigma.mean()) * len(x)
        scales = [
            (new - old).abs().flatten()
            for (new, _), (old, _) in zip(
                dent.affine_parameters(adaptation).values(),
                dent.affine_parameters(start).values(),
                strict=True,
            )
        ]
        sums["gamma"] += float(torch.cat(scales).mean()) * len(x)
        sums["flips"] += int((after.argmax(1) != network(x).argmax(1)).sum())
    assert actual["images"] == COUNT and actual["flips"] == sums["flips"]
    assert actual["entropy_before"] == pytest.approx(sums["before"] / COUNT, rel=1e-4)
    assert actual["entropy_after"] == pytest.approx(sums["after"] / COUNT, rel=1e-4)
    assert actual["gamma_moved"] == pytest.approx(sums["gamma"] / COUNT, rel=1e-3)
    if defense.blur == "dynamic":
        assert actual["sigma"] == pytest.approx(sums["sigma"] / COUNT, rel=1e-4)
    else:
        assert actual["sigma"] is None
    if defense.loss == "entropy" and not defense.separable:
        assert actual["loss_after"] == pytest.approx(actual["entropy_after"], rel=1e-4)


def test_a_file_per_batch_beside_the_outcomes(dataset: Dataset, tmp_path: Path) -> None:
    _, record = run(dataset, tmp_path, BATCH, diagnostics=True)
    folder = tmp_path / "runs" / record.key / "natural"
    assert sorted(path.name for path in folder.glob("0*")) == [
        f"{number:05d}.{suffix}" for number in range(3) for suffix in ("json", "npz")
    ]
    first = json.loads((folder / "00000.json").read_text())
    labels = dataset.labels[:SIZE]
    assert first["labels"] == torch.bincount(labels, minlength=10).tolist()
    assert first["images"] == sum(first["classes"]) == SIZE


def test_what_is_kept_is_not_made_again_and_stays_in_the_record(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = run(dataset, tmp_path, BATCH)
    assert plain.diagnostics is None and plain.time_ratio is None
    _, full = run(dataset, tmp_path, BATCH, diagnostics=True, measure_time=True)
    assert full.diagnostics and full.time_ratio and full.time_ratio > 0
    monkeypatch.setattr(measurements, "diagnose", None)
    monkeypatch.setattr(measurements, "time_ratio", None)
    for options in ({}, {"diagnostics": True, "measure_time": True}):
        _, again = run(dataset, tmp_path, BATCH, **options)
        assert (again.diagnostics, again.time_ratio) == (full.diagnostics, full.time_ratio)
    with (tmp_path / "results.csv").open() as file:
        assert len(file.readlines()) == 1 + 3  # the header, static, dent, dent observed


def test_attacked_images_are_diagnosed_where_their_points_are_kept(
    dataset: Dataset, tmp_path: Path
) -> None:
    _, record = run(dataset, tmp_path, BATCH, diagnostics=True, save_adversarial=True)
    actual = json.loads(record.diagnostics or "")
    assert list(actual) == ["natural", "transfer"]
    assert actual["transfer"]["entropy_before"] != actual["natural"]["entropy_before"]


def test_a_static_model_has_neither_time_nor_diagnostics(dataset: Dataset, tmp_path: Path) -> None:
    static, _ = run(dataset, tmp_path, BATCH, diagnostics=True, measure_time=True)
    assert static.time_ratio is None and static.diagnostics is None


def note(**changes: Any) -> Any:
    plain = dict.fromkeys(
        ("loss_before", "loss_after", "entropy_before", "entropy_after", "gamma_moved"), 1.0
    )
    counts = {"labels": [2, 2], "classes": [4, 0], "flips": 1, "images": 4}
    return {**plain, "beta_moved": 0.5, "sigma": None, **counts, **changes}


def test_summaries_weigh_batches_by_their_images() -> None:
    actual = summarized([note(), note(loss_after=4.0, images=2, labels=[2, 0], classes=[1, 1])])
    assert actual["loss_after"] == pytest.approx(2.0)
    assert actual["flips"] == 2 and actual["images"] == 6 and actual["sigma"] is None
    assert actual["label_balance"] == pytest.approx(0.5)
    assert actual["predicted_balance"] == pytest.approx(0.5)


def test_balance_is_one_for_equal_shares_and_none_for_one_class() -> None:
    assert balance([3, 3, 3]) == pytest.approx(1)
    assert balance([0, 5, 0]) == 0
    assert balance([7]) == 1
    assert balance([3, 1]) == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    )


# ------------------------------------------------------------------------------------- order


def test_label_windows_sort_within_windows_and_keep_equals_in_order() -> None:
    labels = torch.tensor([2, 0, 2, 1, 1, 0, 3])
    assert label_windows(labels, 4).tolist() == [1, 3, 0, 2, 5, 4, 6]
    assert label_windows(labels, 100).tolist() == [1, 5, 3, 4, 0, 2, 6]


def test_an_order_changes_the_slice_its_hash_and_the_key(dataset: Dataset) -> None:
    given, windows = slice_of(dataset), slice_of(dataset, order="label-windows:5")
    assert windows[1][:5].tolist() == sorted(dataset.labels[:5].tolist())
    assert sorted(map(tuple, windows[0].flatten(1).tolist())) == sorted(
        map(tuple, given[0].flatten(1).tolist())
    )
    assert given[2].sha256 != windows[2].sha256 and windows[2].order == "label-windows:5"
    model = ModelSpec(name="toy", sha256="0")
    keys = {EvalSpec(model=model, data=data).key() for data in (given[2], windows[2])}
    assert len(keys) == 2
    part = slice_of(dataset, 2, 6, order="label-windows:256")
    assert part[1].tolist() == sorted(dataset.labels[2:8].tolist())


@pytest.mark.parametrize(
    ("first", "count", "words"),
    [
        (0, 13, "13 from number 0 on are not there; ask for 12 at most"),
        (4, 9, "9 from number 4 on are not there; ask for 8 at most"),
        (12, None, "number 12 is not there$"),
    ],
)
def test_images_beyond_the_end_are_refused(first: int, count: int | None, words: str) -> None:
    images, labels = torch.zeros(12, 1, 2, 2), torch.zeros(12, dtype=torch.long)
    toy = Dataset(name="toy", images=images, labels=labels, classes=2)
    with pytest.raises(DataError, match=f"toy has 12 images, from number 0 on; {words}"):
        slice_of(toy, first, count)


@pytest.mark.parametrize("order", ["sorted", "label-windows", "label-windows:1", "label-windows:x"])
def test_bad_orders_are_refused(order: str) -> None:
    with pytest.raises(ValueError, match="label-windows:256"):
        DataSpec(name="toy", sha256="0", first=0, count=1, order=order)
    assert DataSpec(name="", sha256="", first=0, count=1).window is None


def test_natural_accuracy_in_the_given_order_stands_beside(
    dataset: Dataset, tmp_path: Path
) -> None:
    both = run(dataset, tmp_path / "given", BATCH)
    assert [item.natural_given_correct for item in both] == [None, None]
    static, dent = run(dataset, tmp_path, BATCH, order="label-windows:10")
    assert static.order == dent.order == "label-windows:10"
    assert static.natural_correct == static.natural_given_correct == both[0].natural_correct
    assert dent.natural_given_correct == both[1].natural_correct
    again = run(dataset, tmp_path, BATCH)[1]  # the given order's natural pass is there already
    assert again.key == both[1].key and again.natural_correct == both[1].natural_correct
