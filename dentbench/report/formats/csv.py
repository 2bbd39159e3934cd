"""A table as comma-separated values; a last column ``notes`` stands for the footnotes."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from dentbench.records.csv_codec import escape
from dentbench.report.formats.text_frame import to_frame
from dentbench.report.numbers import Number
from dentbench.report.table import Cell, Table

_escaped: Final = lru_cache(maxsize=1 << 12)(escape)
"""A column repeats few texts."""


def to_csv(table: Table) -> str:
    """Return comma-separated values: percentages as digits, names safe for spreadsheets."""
    titles = [escape(column.full_title) for column in table.columns]
    frame = to_frame(table, titles, _plain, sparse=False)
    frame.insert(len(titles), "notes", [*map(_notes, table.rows)], allow_duplicates=True)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def _plain(cell: Cell) -> str:
    value = cell.value
    if isinstance(value, str):  # first, for most are
        return _escaped(value)
    return value.plain() if isinstance(value, Number) else escape(cell.text)


def _notes(row: tuple[Cell, ...]) -> str:
    notes = dict.fromkeys([note for cell in row for note in cell.notes])
    return _escaped("; ".join(dict.fromkeys(part for note in notes for part in note.split("; "))))
