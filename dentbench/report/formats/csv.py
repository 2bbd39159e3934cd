"""A table as comma-separated values; a last column ``notes`` stands for the footnotes."""

from __future__ import annotations

import csv
import io

from dentbench.records.csv_codec import escape
from dentbench.report.numbers import Number
from dentbench.report.table import Cell, Table


def to_csv(table: Table) -> str:
    """Return comma-separated values: percentages as digits, names safe for spreadsheets."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(escape(column.full_title) for column in table.columns), "notes"])
    for row in table.rows:
        parts = (part for cell in row for note in cell.notes for part in note.split("; "))
        notes = dict.fromkeys(parts)
        writer.writerow([*map(_plain, row), escape("; ".join(notes))])
    return text.getvalue()


def _plain(cell: Cell) -> str:
    return cell.value.plain() if isinstance(cell.value, Number) else escape(cell.text)
