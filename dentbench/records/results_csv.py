"""The results file: ``results.csv``, one row per :class:`~dentbench.records.outcome.Record`.

Append-only, UTF-8, one physical line per row, the columns of ``Record`` in order. Writers take
turns on ``results.csv.lock``; a row is one write followed by fsync. The rest of a row after a crash
is moved to ``results.csv.torn`` by the next writer. A file that is not ours, was changed by hand or
is of a newer schema is refused and left as it is; a file of an older schema is rewritten with the
present columns, those that it lacked left empty, and kept as it was as "results.csv.schema-N".

How a value is written: see ``csv_codec.py``.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Final

from dentbench.errors import StoreError
from dentbench.records.csv_codec import READERS, TYPES, to_row
from dentbench.records.outcome import Record, column_names
from dentbench.records.safe_files import append_bytes, explained, write_atomic
from dentbench.records.sheet import Sheet, foreign, lines_of, parse, schema_of

RESULTS_FILE: Final = "results.csv"
"""Name of the results file in a results folder."""

LOCK_SECONDS: Final = 60.0
"""Seconds that a writer waits for the lock."""

_log = logging.getLogger(__name__)


def append(results_dir: str | Path, record: Record) -> bool:
    """Add a record to the folder's results file and return whether it was added.

    False when an equal record is there already: the same key, protocols and findings. Makes the
    folder and the file if need be. Raises :class:`~dentbench.errors.StoreError` when the folder
    or file cannot be written, when the file is refused, or when another process holds it for
    more than ``LOCK_SECONDS``.
    """
    path = Path(results_dir) / RESULTS_FILE
    row = to_row(record)
    with explained("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            whole, torn = _read_bytes(path)
            sheet = parse(path, whole) if whole else None
            if torn:
                _check_torn(path, whole, torn)
                _set_aside(path, len(whole), torn)
            if sheet is None:
                write_atomic(path, lines_of([column_names(), row]))
                return True
            if sheet.names != column_names():
                _keep_older(path, whole, sheet)
                sheet = sheet.upgraded(path)
                write_atomic(path, lines_of([sheet.names, *sheet.rows]))
            identity, key = _identity(row), row[_KEY_INDEX]
            alike = (other for other in sheet.rows if len(other) > _KEY_INDEX)
            if any(_identity(other) == identity for other in alike if other[_KEY_INDEX] == key):
                return False
            append_bytes(path, b"\n" * _lacks_line_end(path) + lines_of([row]))
            return True


def require_usable(results_dir: str | Path) -> None:
    """Raise :class:`~dentbench.errors.StoreError` where :func:`append` would, before a long run.

    Makes the folder if need be, and changes nothing in it.
    """
    path = Path(results_dir) / RESULTS_FILE
    with explained("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            whole, torn = _read_bytes(path)
            if torn:
                _check_torn(path, whole, torn)
            if whole:
                parse(path, whole).upgraded(path)
            if path.exists():
                path.open("ab").close()


def read(results_dir: str | Path) -> list[Record]:
    """Return the records of the folder's results file, oldest first, types restored exactly.

    An empty list when the folder has no results file. Takes no lock and changes nothing; an
    incomplete last line is left out with a warning. Raises
    :class:`~dentbench.errors.StoreError` when the folder does not exist, the file is refused or a
    cell is not of its column's type.
    """
    path = Path(results_dir) / RESULTS_FILE
    with explained("read", path):
        if path.parent.exists() and not path.parent.is_dir():
            hint = f"; name {path.parent.parent}" if path.parent.name == RESULTS_FILE else ""
            raise StoreError(f"{path.parent} is a file, and no results folder{hint}")
        if not path.parent.is_dir():
            raise StoreError(
                f"there is no results folder {path.parent}; dentbench evaluate makes one, or name "
                "another"
            )
    return read_file(path)


def read_file(path: Path) -> list[Record]:
    """Return the records of a results file; none when it does not exist. Else as :func:`read`."""
    with explained("read", path):
        whole, torn = _read_bytes(path)
        sheet = parse(path, whole) if whole else None
        if torn:
            _check_torn(path, whole, torn)
            _log.warning("the last line of %s is incomplete and was left out", path)
        return [] if sheet is None else sheet.upgraded(path).records(path)


_OF_THE_RUN: Final = frozenset({"time", "seconds", "device", "versions", "git_revision", "source"})
"""The columns of how and when a row was made; all others hold settings and results."""

_KEY_INDEX: Final = column_names().index("key")
_COMPARED: Final = tuple(
    (at, name) for at, name in enumerate(column_names()) if name not in _OF_THE_RUN
)


def _identity(row: Sequence[str]) -> tuple[object, ...]:
    """Return the values that equal rows share, in any order of protocols and objects."""
    if len(row) != len(TYPES):
        return ()
    return tuple(_unordered(name, row[at]) for at, name in _COMPARED)


def _unordered(name: str, cell: str) -> object:
    if name == "protocol":
        return frozenset(cell.split())
    if cell.startswith("{"):
        with suppress(ValueError):
            return json.dumps(json.loads(cell), sort_keys=True)
    return cell


def _read_bytes(path: Path) -> tuple[bytes, bytes]:
    """Return the file's whole lines and the rest after the last line end; empty if missing.

    A last row that lacks its line end alone, which an editor may take away, is whole.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b"", b""
    end = data.rfind(b"\n") + 1
    if end and _is_whole_row(data[end:]):
        return data + b"\n", b""
    return data[:end], data[end:]


_REVISION: Final = re.compile(r"([0-9a-f]{12}\+?)?")
"""The last cell of a row: a result of :func:`~dentbench.records.provenance.git_revision`."""


def _is_whole_row(line: bytes) -> bool:
    """Return whether a line without its end is a row of ours, up to its last cell."""
    try:
        ((*cells, last),) = csv.reader([line.decode()], strict=True)
        for name, cell in zip(column_names(), (*cells, last), strict=True):
            READERS[name](cell)
    except (ValueError, csv.Error):  # of another number of cells too
        return False
    return _REVISION.fullmatch(last) is not None


def _lacks_line_end(path: Path) -> bool:
    return not path.read_bytes().endswith(b"\n")


def _check_torn(path: Path, whole: bytes, torn: bytes) -> None:
    """Raise StoreError unless the incomplete last line can be a piece of a file of ours."""
    if not whole and not lines_of([column_names()]).startswith(torn):
        raise foreign(path)


def _set_aside(path: Path, length: int, torn: bytes) -> None:
    """Move the incomplete last line to a file beside the results file and warn."""
    aside = path.with_name(path.name + ".torn")
    append_bytes(aside, torn + b"\n")
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())
    _log.warning("the last line of %s was incomplete; it was moved to %s", path, aside)


def _keep_older(path: Path, whole: bytes, sheet: Sheet) -> None:
    """Keep a file of an older schema beside its replacement, under a name of its own.

    It is "results.csv.schema-1", with a number where that is taken.
    """
    schema = max((schema_of(row, sheet.names) for row in sheet.rows), default=0)
    first = path.with_name(f"{path.name}.schema-{schema}")
    numbered = (path.with_name(f"{first.name}.{number}") for number in count(1))
    aside = next(candidate for candidate in chain([first], numbered) if not candidate.exists())
    write_atomic(aside, whole)
    _log.info("%s had older columns; it is kept as %s", path, aside.name)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise StoreError(
            f"another process has held {path} for {LOCK_SECONDS:.0f} seconds; "
            "wait for it to end and run the command again"
        ) from None
