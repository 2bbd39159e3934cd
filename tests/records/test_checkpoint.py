"""Outcomes on disk: whole or not there, whatever happens to the file."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dentbench.errors import StoreError
from dentbench.records.checkpoint import RunFolder, stored_outcomes
from dentbench.records.outcome import BatchOutcome
from dentbench.records.outcome_arrays import IMAGE_FIELDS
from dentbench.spec.evaluation import DataSpec, DentSpec, EvalSpec, ModelSpec
from tests.helpers import ROOT

SPEC = EvalSpec(
    model=ModelSpec(name="net", sha256="ab"),
    data=DataSpec(name="data", sha256="cd", first=0, count=3),
    defense=DentSpec(),
)
OUTCOME = BatchOutcome(
    stage="published",
    index=2,
    correct=(True, False, True),
    attack_correct=(True, False, False),
    broken_by=("", "apgd-ce", "square"),
    forwards=33,
    backwards=22,
    seconds=0.1 + 0.2,
)
POINTS = np.random.default_rng(0).random((3, 1, 3, 3), dtype=np.float32)


DETAILS = {
    "compositions": {"alone": {"natural": 3, "lost": 0}, "shuffled": {"natural": 2, "lost": 1}},
    "invading": {"5%": {"malicious": 1}},
    "stream": {},
}
WHOLE = replace(
    OUTCOME,
    judged=(True, True, False),
    changed=0,
    static_correct=(False, True, True),
    points_sha256="ab",
    rights=(10, 0, 2**40),
    unanswered=(False, True, False),
    details=DETAILS,
    versions={"natural": 1, "published": 3, "dent": 2},
    indexes=(7, 8, 9),
    labels=(0, 9, 4),
    linf=(1e-300, 0.1, 0.1 + 0.2),
    l2=(0.0, math.pi, 1.0),
    l1=(0.0, 5.0, 1e300),
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, SPEC)


def stored(folder: RunFolder) -> Path:
    """Store the outcome with its points and return its file."""
    folder.save(OUTCOME, POINTS)
    (path,) = folder.path.glob("published/*.npz")
    return path


def test_an_outcome_comes_back_as_it_was(folder: RunFolder) -> None:
    assert folder.load("published", 2) is None
    stored(folder)
    assert folder.load("published", 2) == OUTCOME
    assert folder.load("published", 2, with_points=True) == OUTCOME
    points = folder.load_points("published", 2)
    assert points.dtype == np.float32 and np.array_equal(points, POINTS)


def test_all_that_is_known_of_a_batch_comes_back_to_the_bit(folder: RunFolder) -> None:
    folder.save(WHOLE, None)
    actual = folder.load("published", 2)
    assert actual == WHOLE and repr(actual) == repr(WHOLE)


def test_a_file_is_a_table_of_images_that_any_tool_reads(folder: RunFolder) -> None:
    folder.save(WHOLE, POINTS)
    (path,) = folder.path.glob("published/*.npz")
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == ["images", "batch", "versions", "details", "points"]
        frame = pd.DataFrame(archive["images"])
        assert not [name for name in archive.files if "{" in str(archive[name])]
    assert frame["broken_by"].tolist() == ["", "apgd-ce", "square"]
    assert frame["linf"].tolist() == [*WHOLE.linf] and frame["label"].tolist() == [0, 9, 4]
    assert set(frame) == {*IMAGE_FIELDS}


def test_files_of_version_01_are_read(tmp_path: Path) -> None:
    """They were written by that version: JSON in an array."""
    paths = sorted((ROOT / "tests/golden/results-0.1/runs").glob("*/*/*.npz"))
    assert len(paths) == 24
    for path in paths:
        with np.load(path) as archive:
            written = json.loads(str(archive["outcome"]))
        (outcome,) = [
            item
            for item in stored_outcomes(path.parents[3], path.parents[1].name, path.parent.name)
            if item.index == int(path.stem)
        ]
        read = json.loads(json.dumps(asdict(outcome)))
        assert {name: read[name] for name in written} == written
        assert not outcome.labels and not outcome.linf


def test_outcomes_are_kept_apart_by_run_stage_and_number(folder: RunFolder, tmp_path: Path) -> None:
    folder.save(OUTCOME, None)
    other = replace(OUTCOME, stage="transfer", index=3, correct=(False,) * 3)
    folder.save(other, None)
    assert folder.load("published", 2) == OUTCOME
    assert folder.load("transfer", 3) == other
    assert folder.load("published", 3) is None and folder.load("transfer", 2) is None
    assert RunFolder(tmp_path, replace(SPEC, seed=1)).load("published", 2) is None


def test_an_outcome_without_its_points_counts_as_missing_where_they_are_wanted(
    folder: RunFolder,
) -> None:
    folder.save(OUTCOME, None)
    assert folder.load("published", 2) == OUTCOME
    assert folder.load("published", 2, with_points=True) is None
    folder.save(OUTCOME, POINTS)
    assert folder.load("published", 2, with_points=True) == OUTCOME


def test_the_folder_says_what_the_run_is(folder: RunFolder) -> None:
    path = stored(folder)
    described = json.loads((path.parents[1] / "spec.json").read_text())
    assert path.parents[1].name == SPEC.key()
    assert described["model"]["name"] == "net"
    assert described["attack"]["eps"] == "8/255"


def test_clearing_forgets_this_run_only(folder: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path, replace(SPEC, seed=1))
    folder.save(OUTCOME, None)
    other.save(OUTCOME, None)
    folder.clear()
    folder.clear()
    assert folder.load("published", 2) is None
    assert other.load("published", 2) == OUTCOME


# --- damage ---------------------------------------------------------------------------------------


def test_any_damage_is_noticed(folder: RunFolder) -> None:
    """Whatever byte is cut or changed: the file is set aside, or it says exactly what it said."""
    path = stored(folder)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 7)]
    for at in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        damaged.append(bytes(flipped))
    noticed = 0
    logging.disable(logging.CRITICAL)
    try:
        for content in damaged:
            path.write_bytes(content)
            outcome = folder.load("published", 2, with_points=True)
            assert outcome in (None, OUTCOME)
            if outcome is not None:
                try:
                    assert np.array_equal(folder.load_points("published", 2), POINTS)
                except StoreError as error:
                    assert "run again" in str(error)
                    outcome = None
            noticed += outcome is None
            if not path.exists():
                assert path.with_suffix(".corrupt").read_bytes() == content
    finally:
        logging.disable(logging.NOTSET)
    assert noticed > len(damaged) / 2


@pytest.mark.parametrize("content", [b"", b"\n", b"PK", b"not an archive", b"[]"])
def test_a_file_that_is_no_archive_is_set_aside_with_a_warning(
    content: bytes, folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    path = stored(folder)
    path.write_bytes(content)
    assert folder.load("published", 2) is None
    assert path.with_suffix(".corrupt").read_bytes() == content
    assert "is corrupt" in caplog.text and "kept as 00002.corrupt" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "3",
        "null",
        "not json",
        '{"stage": "published"}',
        json.dumps({**vars(OUTCOME), "stage": "transfer"}),
        json.dumps({**vars(OUTCOME), "index": 3}),
        json.dumps({**vars(OUTCOME), "unknown": 1}),
    ],
)
def test_an_archive_that_holds_another_thing_is_set_aside(text: str, folder: RunFolder) -> None:
    path, buffer = stored(folder), io.BytesIO()
    np.savez(buffer, outcome=np.array(text))
    path.write_bytes(buffer.getvalue())
    assert folder.load("published", 2) is None
    assert not path.exists()


def test_pickles_are_never_loaded(folder: RunFolder, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path, buffer = stored(folder), io.BytesIO()
    np.savez(buffer, outcome=np.array([Trap()], dtype=object))
    path.write_bytes(buffer.getvalue())
    assert folder.load("published", 2) is None
    assert not (tmp_path / "sprung").exists()


def test_a_failed_write_leaves_the_old_outcome(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(folder)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        folder.save(replace(OUTCOME, correct=(False,) * 3), POINTS)
    monkeypatch.undo()
    assert folder.load("published", 2) == OUTCOME
    assert sorted(path.name for path in folder.path.glob("published/*")) == ["00002.npz"]


def test_a_results_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = RunFolder(tmp_path / "file", SPEC)
    with pytest.raises(StoreError, match="cannot make the folder"):
        folder.save(OUTCOME, None)
    with pytest.raises(StoreError, match="cannot read"):
        folder.load("published", 2)


@pytest.mark.parametrize("content", ["[]", "{}", "null", "3", '{"after": ""}', '"text"', "", "{"])
def test_a_note_that_holds_something_else_is_made_again(folder: RunFolder, content: str) -> None:
    like = {"after": "", "check": ""}
    folder.save_note("order", {**like, "more": 1})
    assert folder.load_note("order", like) == {**like, "more": 1}
    (folder.path / "order.json").write_text(content)
    assert folder.load_note("order", like) is None
    assert (folder.path / "order.corrupt").read_text() == content
    assert not folder.has("order.json")
