"""A table as JSON."""

from __future__ import annotations

import json
from typing import Any

from dentbench.report.numbers import Number
from dentbench.report.table import Cell, Table


def to_json(table: Table) -> str:
    """Return a JSON object: title, caption, columns, rows by column title, and notes.

    A number is an object with its parts and its ``text``; a cell with footnotes has ``notes``.
    Each row stands on a line of its own.
    """
    titles = [column.full_title for column in table.columns]
    rows = (dict(zip(titles, map(_cell, row), strict=True)) for row in table.rows)
    parts = {
        "title": json.dumps(table.title),
        "caption": json.dumps(table.caption),
        "columns": json.dumps(titles),
        "rows": "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]",
        "notes": json.dumps(list(table.notes)),
    }
    return "{\n" + ",\n".join(f' "{name}": {text}' for name, text in parts.items()) + "\n}\n"


def _cell(cell: Cell) -> Any:
    if not isinstance(cell.value, Number) and not cell.notes:
        return cell.value
    parts = cell.value.data() if isinstance(cell.value, Number) else {}
    return {**parts, "text": cell.text, **({"notes": list(cell.notes)} if cell.notes else {})}
