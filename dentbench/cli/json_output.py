"""Print ``--json``: one document for a command, however many runs its config file has."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from dentbench.records.outcome import Record

RUNS: Final = ("evaluate", "ablate")
"""The commands that hand in their output, and may run code of a user."""

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


@contextlib.contextmanager
def alone(arguments: Sequence[str]) -> Iterator[None]:
    """Leave standard output to the document that a run hands in: all else goes to standard error.

    So do writings of a user's code by another way than print, or processes that it starts.
    """
    stream, runs = sys.stdout, arguments[:1] and arguments[0] in RUNS
    if not runs or "--json" not in arguments or stream is not sys.__stdout__ or stream is None:
        yield
        return
    stream.flush()
    kept = os.dup(stream.fileno())
    with contextlib.suppress(OSError):  # where the error stream is closed
        os.dup2(2, stream.fileno())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            stream.flush()
        os.dup2(kept, stream.fileno())
        os.close(kept)


def clear() -> None:
    """Forget the output handed in, before a command."""
    _parts.clear()


def deliver() -> None:
    """Print the output handed in, if any, as a JSON object."""
    if _parts:
        document = dict(_parts)
        _parts.clear()
        typer.echo(json.dumps(document, indent=1))
