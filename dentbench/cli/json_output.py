"""Print ``--json``: one document for a command, however many runs it has and however it ends."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from dentbench.cli import signals
from dentbench.errors import DentBenchError

if TYPE_CHECKING:
    from dentbench.records.outcome import Record

RUNS: Final = ("evaluate", "ablate", "judge", "board")
"""The commands that hand in their output, and may run code of a user."""

OPTION: Final = "--json"

_parts: Final[dict[str, Any]] = {}
"""The output of the runs so far, by name, and the error that ended them."""

_printed: Final[list[bool]] = []
"""Whether the command has printed its document: not empty."""


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


def add_error(arguments: Sequence[str], error: BaseException) -> None:
    """Hand in the error that ends a command, unless the command has printed its document."""
    if OPTION in arguments and not _printed:
        error = signals.error() if isinstance(error, KeyboardInterrupt) else error
        _parts["error"] = str(error) if isinstance(error, DentBenchError) else repr(error)


@contextlib.contextmanager
def alone(arguments: Sequence[str]) -> Iterator[None]:
    """Leave standard output to the document that a run hands in: all else goes to standard error.

    So do writings of a user's code by another way than print, or processes that it starts.
    """
    stream, runs = sys.stdout, arguments[:1] and arguments[0] in RUNS
    if not runs or OPTION not in arguments or stream is not sys.__stdout__ or stream is None:
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
    _printed.clear()


def print_document(value: object) -> None:
    """Print a command's document; numbers that JSON lacks, such as infinity, are null."""
    typer.echo(json.dumps(_finite(value), indent=1, allow_nan=False))
    _printed.append(True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def deliver() -> None:
    """Print the output handed in, if any, as a JSON object."""
    if _parts:
        document = dict(_parts)
        _parts.clear()
        print_document(document)
