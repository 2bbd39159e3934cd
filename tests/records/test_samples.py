"""A row per image, protocol and record, against a slow loop over the stored outcomes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import dentbench
from dentbench.errors import StoreError
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.workers.judging import norms, places
from dentbench.records.checkpoint import RunFolder
from dentbench.records.judged import NOTE
from dentbench.records.outcome import BatchOutcome, Record
from dentbench.records.results_csv import append, read
from dentbench.records.samples import COLUMNS, read_samples, samples, write_samples
from dentbench.spec.evaluation import DataSpec
from dentbench.zoo.images.arrays import label_windows
from tests.helpers import ROOT, record, spec_of

OLD = ROOT / "tests" / "golden" / "results-0.1"
"""Files of version 0.1 of a static model and a defense, outcomes as JSON."""

FLAGS = np.random.default_rng(5).random((4, 3, 6)) < 0.6


def batch(stage: str, unit: int, **changes: Any) -> BatchOutcome:
    """Three images of one batch, all that is known of them different."""
    flags = FLAGS[unit + 2 * (stage != "natural")].tolist()
    values: dict[str, Any] = {
        "stage": stage,
        "index": unit,
        "correct": tuple(row[0] and row[2] for row in flags),
        "attack_correct": tuple(row[1] for row in flags),
        "judged": tuple(row[2] for row in flags),
        "static_correct": tuple(row[3] for row in flags) if stage != "natural" else (),
        "broken_by": tuple("" if row[2] else "apgd-ce" for row in flags),
        "forwards": 3,
        "backwards": 2,
        "seconds": 0.5,
        "points_sha256": f"{stage} {unit}",
        "indexes": tuple(range(10 + 3 * unit, 13 + 3 * unit)),
        "labels": (4, 0, unit),
        "linf": (0.5, 0.1 + 0.2, 0.0),
        "l2": (1.5, 1e-9, 0.0),
        "l1": (2.5, 3e40, 0.0),
        "versions": {stage: 1},
    }
    return BatchOutcome(**{**values, **changes})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A defended run of six images in two batches, and its record."""
    spec = spec_of(count=6)
    folder = RunFolder(tmp_path, spec)
    for stage in ("natural", "published"):
        for unit in (0, 1):
            folder.save(batch(stage, unit), None)
        judged(folder, stage, 1)
    append(tmp_path, made(spec.key()))
    return tmp_path


def judged(folder: RunFolder, stage: str, draws: int, spread: float = 0.0) -> None:
    """Leave the note of a judgement in a new process."""
    batches = [
        {
            "sha256": f"{stage} {unit}",
            "right": FLAGS[unit, :, 6 - draws :].T.tolist(),
            "close": [False] * 3,
            "spread": spread,
        }
        for unit in (0, 1)
    ]
    folder.save_note(f"{stage}/{NOTE}", {"batches": batches, "reason": ""})


def made(key: str, **changes: Any) -> Record:
    kept = record(1, key=key, n=6, count=6, first=10, defense="dent", mode="instance", steps=1)
    counts = {"natural_correct": 1, "robust_correct": 0, "by_protocol": '{"published": 0}'}
    versions = {"stage_versions": '{"natural": 1, "published": 1}'}
    return replace(kept, **{**counts, **versions, **changes})


def archives(results: Path, key: str, stage: str) -> Iterator[Any]:
    for path in sorted((results / "runs" / key / stage).glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            yield {name: archive[name] for name in archive.files}


def test_every_image_of_every_protocol_has_a_row(results: Path) -> None:
    (kept,) = read(results)
    rows = []
    natural = [row for batch in archives(results, kept.key, "natural") for row in batch["images"]]
    note = json.loads((results / "runs" / kept.key / "published" / f"{NOTE}.json").read_text())
    for unit, stored in enumerate(archives(results, kept.key, "published")):
        for place, image in enumerate(stored["images"]):
            fresh = note["batches"][unit]["right"][0][place]
            rows.append(
                {
                    "key": kept.key,
                    "model": kept.model,
                    "defense": "dent",
                    "protocol": "published",
                    "batch": unit,
                    "index": image["index"],
                    "label": image["label"],
                    "natural_right": natural[len(rows)]["correct"],
                    "right": image["correct"] and fresh,
                    "right_here": image["judged"],
                    "attack_right": image["attack_correct"],
                    "fresh_right": fresh,
                    "static_right": image["static_correct"],
                    "draws": None,
                    "draws_right": None,
                    "broken_by": str(image["broken_by"]),
                    **{norm: image[norm] for norm in ("linf", "l2", "l1")},
                }
            )
    expected = pd.DataFrame(rows).astype(COLUMNS)
    pd.testing.assert_frame_equal(read_samples(results), expected)
    assert expected["right"].tolist() != expected["right_here"].tolist()
    assert expected["index"].tolist() == [*range(10, 16)] and len(expected) == 6
    assert expected["natural_right"].sum() == kept.natural_correct
    assert (expected["natural_right"] & expected["right"]).sum() == kept.robust_correct


def test_rows_of_version_01_add_up_to_the_records_of_that_time() -> None:
    frame = dentbench.read_samples(OLD)
    for item in read(OLD):
        own = frame[frame["key"] == item.key]
        for name, count in item.protocol_counts.items():
            rows = own[own["protocol"] == name]
            assert (rows["natural_right"] & rows["right"]).sum() == count
            assert rows["natural_right"].sum() == item.natural_correct
            assert rows["index"].tolist() == [*range(item.first, item.first + item.n)]
        worst = own.groupby("index")[["natural_right", "right"]].all().all(axis=1)
        assert worst.sum() == item.robust_correct
        assert len(own) == item.n * len(item.protocol_counts)
    assert frame["label"].isna().all() and frame["linf"].isna().all()
    assert set(frame["protocol"]) > {"published", "transfer", "batch-mates"}


def test_a_batch_of_version_01_among_newer_ones_lacks_what_it_did_not_know(results: Path) -> None:
    bare = replace(batch("published", 1), labels=(), indexes=(), linf=(), l2=(), l1=())
    RunFolder(results, spec_of(count=6)).save(bare, None)
    frame = read_samples(results)
    assert frame["label"].isna().tolist() == frame["l2"].isna().tolist() == [False] * 3 + [True] * 3
    assert frame["index"].tolist() == [*range(10, 16)]


def test_a_record_without_an_attack_has_a_row_per_image(results: Path) -> None:
    (kept,) = read(results)
    frame = samples([replace(kept, attack="none", protocol="", by_protocol="{}")], results)
    assert frame["protocol"].isna().all() and frame["right"].tolist() == [
        flag for unit in (0, 1) for flag in batch("natural", unit).correct
    ]


def test_a_random_defense_has_its_draws(results: Path) -> None:
    folder = RunFolder(results, spec_of(count=6))
    for stage in ("natural", "published"):
        judged(folder, stage, 4, spread=0.5)
    frame = read_samples(results)
    assert frame["draws"].tolist() == [4] * 6
    assert frame["draws_right"].tolist() == FLAGS[:2, :, 2:].sum(2).flatten().tolist()
    assert frame["right"].tolist() == [
        flag for unit in (0, 1) for flag in batch("published", unit).correct
    ]


def test_norms_are_those_of_a_loop() -> None:
    perturbations = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.5
    actual = norms(perturbations)
    for place, image in enumerate(perturbations.double().flatten(1).tolist()):
        assert actual["linf"][place] == max(map(abs, image))
        assert actual["l2"][place] == pytest.approx(math.hypot(*image), rel=1e-14)
        assert actual["l1"][place] == pytest.approx(math.fsum(map(abs, image)), rel=1e-14)


def test_images_in_another_order_keep_their_numbers() -> None:
    labels = torch.tensor([3, 1, 2, 0, 1, 0])
    network, images = torch.nn.Identity(), torch.rand(6, 1, 2, 2)
    data = DataSpec(name="d", sha256="", first=20, count=6, order="label-windows:4")
    given = RunInputs(network=network, images=images, labels=labels)
    windows = label_windows(labels, 4)
    sorted_subject = RunInputs(
        network=network,
        images=images[windows],
        labels=labels[windows],
        given=(given, replace(data, order="given")),
    )
    spec = replace(spec_of(count=6), data=data)
    numbers = places(sorted_subject, spec)
    assert [int(labels[number - 20]) for number in numbers] == labels[windows].tolist()
    assert sorted(numbers) == [*range(20, 26)] and numbers != sorted(numbers)
    assert places(given, replace(spec, data=replace(data, order="given"))) == [*range(20, 26)]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder.path / "published" / "00001.npz").unlink(),
        lambda folder: folder.save(batch("published", 1, versions={"published": 2}), None),
        lambda folder: folder.clear(),
    ],
)
def test_outcomes_of_another_run_are_not_shown(results: Path, change: Any) -> None:
    change(RunFolder(results, spec_of(count=6)))
    with pytest.raises(StoreError, match=r"no outcomes of these records in .*runs; run evaluate"):
        read_samples(results)


def test_what_is_left_out_is_said(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(results, made("f" * 16))
    assert len(read_samples(results)) == 6
    assert "1 of 2 records have no outcomes" in caplog.text and "f" * 16 in caplog.text


def test_a_damaged_outcome_is_named_and_left_as_it_is(results: Path) -> None:
    (path,) = results.glob("runs/*/published/00001.npz")
    path.write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"00001\.npz cannot be read .*; run evaluate again"):
        read_samples(results)
    assert path.read_bytes() == b"damaged"


@pytest.mark.parametrize("ending", ["parquet", "csv", "CSV"])
def test_a_file_has_what_the_frame_has(results: Path, ending: str) -> None:
    frame = read_samples(results)
    frame["model"] = '=HYPERLINK("x")'
    path = results / f"samples.{ending}"
    write_samples(frame, path)
    if ending == "parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(path), frame)
        return
    actual = pd.read_csv(path, dtype={**COLUMNS, "key": "string"})
    assert set(actual["model"]) == {"'" + '=HYPERLINK("x")'}
    missing = frame["broken_by"].replace("", pd.NA)
    changed = frame.assign(model=actual["model"], broken_by=missing)
    pd.testing.assert_frame_equal(actual, changed)
