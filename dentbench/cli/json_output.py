"""Print ``--json``: one document for a command, however many runs its config file has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from dentbench.records.outcome import Record

_parts: Final[dict[str, list[Any]]] = {}
"""The output of the runs so far, by name."""


def of_record(record: Record) -> dict[str, Any]:
    """Return a record's columns; those that hold JSON as the values that it stands for."""
    from dataclasses import fields

    values = {}
    for column in fields(record):
        value = getattr(record, column.name)
        is_json = isinstance(value, str) and column.metadata["doc"].endswith("JSON object")
        values[column.name] = json.loads(value) if is_json else value
    return values


def add(**parts: list[Any]) -> None:
    """Hand in a run's output, lists by name."""
    for name, values in parts.items():
        _parts.setdefault(name, []).extend(values)


def clear() -> None:
    """Forget the output handed in, before a command."""
    _parts.clear()


def deliver() -> None:
    """Print the output handed in, if any, as one JSON object."""
    if _parts:
        document = dict(_parts)
        _parts.clear()
        typer.echo(json.dumps(document, indent=1))
