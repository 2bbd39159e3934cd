"""Stored outcomes as a pandas DataFrame: one row per image, protocol and record."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dentbench.errors import SpecError, StoreError
from dentbench.records.checkpoint import read_note, stored_outcomes
from dentbench.records.csv_codec import escape
from dentbench.records.judged import NOTE, Judged, is_random, judged_in, same_points
from dentbench.records.outcome import NATURAL, BatchOutcome, Record
from dentbench.records.results_csv import read
from dentbench.records.safe_files import is_stream, write_atomic
from dentbench.records.union import united

COLUMNS: Final = {
    "key": "string",
    "model": "string",
    "defense": "string",
    "protocol": "string",
    "batch": "Int64",
    "index": "Int64",
    "label": "Int64",
    "natural_right": "boolean",
    "right": "boolean",
    "right_here": "boolean",
    "attack_right": "boolean",
    "fresh_right": "boolean",
    "static_right": "boolean",
    "draws": "Int64",
    "draws_right": "Int64",
    "broken_by": "string",
    "linf": "Float64",
    "l2": "Float64",
    "l1": "Float64",
}
"""The columns and their types in pandas; see :func:`read_samples`."""

_log = logging.getLogger(__name__)


def read_samples(path: str | Path = "results") -> pd.DataFrame:
    """Return every image of a results folder under every protocol, as a tidy DataFrame.

    One row per image, protocol and record, the latest of equal runs; a record without an attack
    has one row per image, whose ``protocol`` is missing. ``key`` is the record's. ``index``: the
    image's number in the data set, ``batch``: of its declared batch, from 0. ``natural_right``: it
    is right without an attack. ``right``: as the record counts it, no matter whether it was
    natural: right at this protocol's final point, where no protocol before it in the cascade broke
    it. ``right_here``: at that point alone. ``attack_right``: the attack's own flag.
    ``fresh_right``: by a new process that was asked nothing before. ``static_right``: the static
    model's answer at that point. ``broken_by``: the attack that broke it, "natural" where it was
    wrong before. ``draws`` and ``draws_right``: of a random defense, how many answers were drawn
    and how many of them were right, which counts in place of ``right``. ``linf``, ``l2``, ``l1``:
    norms of the final perturbation, images in [0, 1]. Unknown values, such as labels of runs of
    version 0.1, is missing.

    Raises :class:`~dentbench.errors.StoreError` for a folder without records or outcomes.
    """
    results = Path(path)
    return samples(united(read(results)), results)


def samples(records: Sequence[Record], results: Path) -> pd.DataFrame:
    """Return samples as :func:`read_samples` does, of some records of a results folder.

    A record whose outcomes are gone is left out with a warning.
    """
    parts, missing = [], []
    for record in records:
        frame = _of_record(record, results)
        if frame is None:
            missing.append(record.key)
        else:
            parts.append(frame)
    if not parts:
        raise StoreError(
            f"there are no outcomes of these records in {results / 'runs'}; run evaluate again, "
            "or name the folder that has them by --results"
        )
    if missing:
        _log.warning(
            "%d of %d records have no outcomes in %s and are left out: %s",
            *(len(missing), len(records), results / "runs", ", ".join(missing)),
        )
    return pd.concat(parts, ignore_index=True)


def _of_record(record: Record, results: Path) -> pd.DataFrame | None:
    """Return the rows of a record, or None where its outcomes are not all there."""
    stages = {
        name: _outcomes(record, results, name) for name in (NATURAL, *record.protocol.split())
    }
    if not all(stages.values()):
        return None
    judged = {name: _judged(record, results, name, stages[name]) for name in stages}
    natural = _column(stages[NATURAL], "correct")
    random = record.chance is not None or is_random(judged[NATURAL])
    names = record.protocol.split() or [NATURAL]
    return pd.concat(
        [_rows(record, name, stages[name], judged[name], natural, random) for name in names]
    )


def _outcomes(record: Record, results: Path, stage: str) -> list[BatchOutcome]:
    """Return a stage's outcomes if they are whole and of the code that the record names."""
    outcomes = stored_outcomes(results, record.key, stage)
    numbers = json.loads(record.stage_versions or "{}")
    whole = sum(len(outcome.correct) for outcome in outcomes) == record.n
    known = all(
        numbers.get(name, number) == number
        for outcome in outcomes
        for name, number in outcome.versions.items()
    )
    return outcomes if whole and known else []


def _judged(
    record: Record, results: Path, stage: str, outcomes: Sequence[BatchOutcome]
) -> list[Judged]:
    note = read_note(results, record.key, f"{stage}/{NOTE}")
    judged = [] if note is None else judged_in(note)
    return judged if same_points(stage, judged, outcomes) else []


def _rows(
    record: Record,
    stage: str,
    outcomes: Sequence[BatchOutcome],
    judged: Sequence[Judged],
    natural: Sequence[bool],
    random: bool,
) -> pd.DataFrame:
    """Return the rows of a protocol of a record, or of its natural stage."""
    n = record.n
    correct = _column(outcomes, "correct")
    fresh = [flag for batch in judged for flag in batch.right[0]]
    draws = [sum(image) for batch in judged for image in zip(*batch.right, strict=True)]
    counts = fresh and stage != NATURAL and not random
    nothing = [None] * n
    values: dict[str, Sequence[Any]] = {
        "key": [record.key] * n,
        "model": [record.model] * n,
        "defense": [record.defense] * n,
        "protocol": nothing if stage == NATURAL else [stage] * n,
        "batch": [outcome.index for outcome in outcomes for _ in outcome.correct],
        "index": _indexes(record, outcomes),
        "label": _column(outcomes, "labels"),
        "natural_right": natural,
        "right": [*map(bool.__and__, correct, fresh)] if counts else correct,
        "right_here": _column(outcomes, "judged"),
        "attack_right": _column(outcomes, "attack_correct"),
        "fresh_right": fresh or nothing,
        "static_right": _column(outcomes, "static_correct"),
        "draws": [len(judged[0].right)] * n if random else nothing,
        "draws_right": draws if random else nothing,
        "broken_by": _column(outcomes, "broken_by"),
        **{norm: _column(outcomes, norm) for norm in ("linf", "l2", "l1")},
    }
    return pd.DataFrame({name: pd.Series(values[name], dtype=COLUMNS[name]) for name in COLUMNS})


def _column(outcomes: Sequence[BatchOutcome], field: str) -> list[Any]:
    """Return a field of all images in order; None where an outcome does not have it."""
    return [
        value
        for outcome in outcomes
        for value in getattr(outcome, field) or [None] * len(outcome.correct)
    ]


def _indexes(record: Record, outcomes: Sequence[BatchOutcome]) -> list[int | None]:
    """Return the images' numbers in the data set; of version 0.1 where the order was given."""
    indexes = _column(outcomes, "indexes")
    if record.order == "given":
        return [*range(record.first, record.first + record.n)]
    return indexes


def require_ending(path: Path) -> str:
    """Return ".parquet" or ".csv", whichever a path ends in; a stream has none and gets CSV.

    Raises :class:`~dentbench.errors.SpecError` for another ending, and for ".parquet" where pyarrow
    is not installed.
    """
    ending = ".csv" if is_stream(path) else path.suffix.lower()
    if ending not in (".parquet", ".csv"):
        ending_text = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise SpecError(f"--samples {path} {ending_text}; end it in .parquet or .csv")
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise SpecError(
            "a .parquet file needs pyarrow, which is not installed; pip install pyarrow, or end "
            "the name in .csv"
        )
    return ending


def write_samples(frame: pd.DataFrame, path: Path) -> None:
    """Write rows to a .parquet or .csv file in one atomic step; texts are safe for spreadsheets."""
    buffer = io.BytesIO()
    if require_ending(path) == ".parquet":
        frame.to_parquet(buffer, engine="pyarrow", index=False)
    else:
        frame.apply(_written).to_csv(buffer, index=False, lineterminator="\n")
    write_atomic(path, buffer.getvalue())


def _written(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column as it is written into a CSV file, like those of ``results.csv``."""
    if COLUMNS[str(column.name)] == "string":
        return column.map(escape, na_action="ignore")
    if COLUMNS[str(column.name)] == "boolean":
        return column.map({True: "true", False: "false"}, na_action="ignore")
    return column
