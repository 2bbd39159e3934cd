"""A results file in memory: parsed, refused where it is not ours, brought to today's columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from dentbench.errors import StoreError
from dentbench.records.counts import impossible
from dentbench.records.csv_codec import ALLOWED, READERS
from dentbench.records.outcome import SCHEMA, Record, column_names
from dentbench.validation import encoding_fault

_RENAMED: Final = ((4, "decision", "scores"),)
"""Protocols that rows below a schema know by another name: the schema, that name, the present."""

_NAME_PROTOCOLS: Final = frozenset(
    {"protocol", "worst_protocol", "by_protocol", "skipped", "rechecked", "passes", "diagnostics"}
)
"""The columns that name protocols."""


@dataclass(frozen=True)
class Sheet:
    """A results file in memory: the names of its columns and its rows of cells."""

    names: tuple[str, ...]
    rows: list[list[str]]

    def upgraded(self, path: Path) -> Sheet:
        """Return the sheet with the present columns, those that it lacks empty."""
        for number, row in enumerate(self.rows, start=2):
            if len(row) != len(self.names):
                raise StoreError(
                    f"{path}, line {number} has {len(row)} cells, not {len(self.names)}; "
                    "correct the line or move the file away"
                )
        self._rename()
        if self.names == column_names():
            return self
        places = [self.names.index(name) if name in self.names else None for name in column_names()]
        rows = [["" if at is None else row[at] for at in places] for row in self.rows]
        if "layers" not in self.names:  # of dent, from before there was a choice
            mode, layers = (column_names().index(name) for name in ("mode", "layers"))
            for row in rows:
                row[layers] = "batchnorm" if row[mode] in ("batch", "instance") else ""
        return Sheet(column_names(), rows)

    def _rename(self) -> None:
        """Call the protocols of older rows by their present names, in place."""
        columns = [at for at, name in enumerate(self.names) if name in _NAME_PROTOCOLS]
        for row in self.rows:
            for until, old, new in _RENAMED:
                if schema_of(row, self.names) < until:
                    for at in columns:
                        row[at] = re.sub(rf"\b{old}\b", new, row[at])

    def records(self, path: Path) -> list[Record]:
        """Return the rows as records; raises StoreError for a cell of a wrong type."""
        columns = []
        for name, cells in zip(self.names, zip(*self.rows, strict=True), strict=False):
            try:  # a column repeats few values, so each is read once
                values = {cell: READERS[name](cell) for cell in set(cells)}
                columns.append([*map(values.__getitem__, cells)])
            except ValueError:
                columns.append(self._read_carefully(path, name, cells))
        rows = zip(*columns, strict=True)
        # By position: Python compares each of so many keywords with all the names before it.
        records = [Record(*row) for row in rows]
        for number, record in enumerate(records, start=2):
            wrong = impossible(record)
            if wrong:
                raise StoreError(
                    f"{path}, line {number}: {wrong}; correct the line or move the file away"
                )
        return records

    def _read_carefully(self, path: Path, name: str, cells: Sequence[str]) -> list[Any]:
        """Return a column's values; None for a cell that its row's older schema did not have."""
        values: list[Any] = []
        for number, (cell, row) in enumerate(zip(cells, self.rows, strict=True), start=2):
            old = not cell and schema_of(row, self.names) < SCHEMA
            try:
                values.append(None if old else READERS[name](cell))
            except ValueError:
                raise StoreError(
                    f"{path}, line {number}: {name} is {cell!r}; allowed: "
                    f"{ALLOWED[name]}; correct the line or move the file away"
                ) from None
        return values


def parse(path: Path, whole: bytes) -> Sheet:
    """Return the sheet that whole lines hold, or raise StoreError for a file that is refused."""
    try:
        lines = io.TextIOWrapper(io.BytesIO(whole), "utf-8-sig", newline="")
        header, *rows = csv.reader(lines, strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError):
        raise foreign(path, encoding_fault(whole)) from None
    names, known = tuple(header), column_names()
    if not {"schema", "key", "protocol"} <= set(names):
        raise foreign(path)
    newest = max((schema_of(row, names) for row in rows), default=0)
    if newest > SCHEMA:
        raise StoreError(
            f"{path} was written by a newer dentbench (schema {newest}, this one knows "
            f"{SCHEMA}); upgrade dentbench or use another results folder"
        )
    remaining = iter(known)
    in_order = all(name in remaining for name in names)
    if names != known and not (in_order and 0 < newest < SCHEMA):
        odd = next(a or b for a, b in zip_longest(names, known) if a != b)
        raise StoreError(
            f"the header of {path} was changed (at column {odd!r}), so the file is left as it is; "
            "undo the change, move the file away or use another results folder"
        )
    return Sheet(names, rows)


def schema_of(row: Sequence[str], names: Sequence[str]) -> int:
    """Return the schema that a row was written in; 0 where it does not say."""
    at = names.index("schema")
    return int(row[at]) if len(row) > at and row[at].isdecimal() else 0


def foreign(path: Path, fault: str = "") -> StoreError:
    """Return the error for a file that is no results file; ``fault``: what is wrong, if known."""
    why = f" that can be read ({fault})" if fault else ""
    return StoreError(
        f"{path} is not a results file of dentbench{why}, so it is left as it is; "
        "move it away or use another results folder"
    )


def lines_of(rows: Sequence[Sequence[str]]) -> bytes:
    """Return rows as lines of a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
