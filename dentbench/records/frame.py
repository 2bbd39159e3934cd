"""Records as a pandas DataFrame: tidy, with typed columns and exact counts."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dentbench.errors import StoreError
from dentbench.records.outcome import Record
from dentbench.records.results_csv import read, read_file
from dentbench.spec.evaluation import parse_eps

_KINDS: Final = {"str": "string", "int": "Int64", "float": "Float64", "bool": "boolean"}
"""A column's type in pandas, by its type in a record; each has a missing value."""

EACH: Final = {"protocol": "string", "right": "Int64", "passes": "Int64"}
"""The columns that a row has of its own protocol."""


def read_results(path: str | Path = "results") -> pd.DataFrame:
    """Return a results folder, or a ``results.csv``, as a tidy DataFrame.

    One row per record and protocol, oldest record first; a record without an attack has one row,
    whose ``protocol`` and ``right`` are missing. ``right``: images right without an attack and
    under the protocol, of ``n``. ``passes``: single-image passes that the protocol took. ``eps``
    is an exact Fraction, ``time`` a time in UTC; the other columns are those of ``results.csv``.
    Raises :class:`~dentbench.errors.StoreError` for a path that is not there, and for a file that
    is not ours or was changed by hand.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame = read_results(folder)
    >>> len(frame), str(frame["right"].dtype), str(frame["model"].dtype)
    (0, 'Int64', 'string')
    """
    path = Path(path)
    if path.is_dir():
        return by_protocol(read(path))
    if not path.exists():
        raise StoreError(f"there is no results folder or file {path}; give one of the two")
    return by_protocol(read_file(path))


def by_protocol(records: Sequence[Record]) -> pd.DataFrame:
    """Return records as :func:`read_results` does: one row per record and protocol."""
    frame = by_record(records).drop(columns=["protocol", "by_protocol", "passes"])
    places, rows = [], []
    for place, record in enumerate(records):
        passes = json.loads(record.passes or "{}")
        counts: dict[str, int | None] = dict(record.protocol_counts) if record.protocol else {}
        for name, right in counts.items() or [(None, None)]:
            places.append(place)
            rows.append({"protocol": name, "right": right, "passes": passes.get(name)})
    own = pd.DataFrame(rows, columns=list(EACH)).astype(EACH)
    tidy = frame.iloc[places].reset_index(drop=True)
    at = tidy.columns.get_loc("seed")
    for shift, name in enumerate(EACH):
        tidy.insert(int(at) + shift, name, own[name])
    return tidy


def by_record(records: Sequence[Record], names: Collection[str] = ()) -> pd.DataFrame:
    """Return one row per record: the columns of ``results.csv``, or those named, typed."""
    columns: dict[str, Any] = {}
    for column in fields(Record):
        if names and column.name not in names:
            continue
        values = [getattr(record, column.name) for record in records]
        if column.name == "eps":
            exact = {text: parse_eps(text) for text in set(values)}
            columns["eps"] = pd.Series([exact[text] for text in values], dtype="object")
        elif column.name == "time":
            columns["time"] = pd.to_datetime(pd.Series(values, dtype="string"), utc=True)
        else:
            kind = _KINDS[str(column.type).removesuffix(" | None")]
            columns[column.name] = pd.Series(values, dtype=kind)
    return pd.DataFrame(columns)
