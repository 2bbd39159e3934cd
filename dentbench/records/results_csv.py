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
import io
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count, zip_longest
from pathlib import Path
from typing import Any, Final

from dentbench.errors import StoreError
from dentbench.records.counts import impossible
from dentbench.records.csv_codec import READERS, TYPES, to_row
from dentbench.records.outcome import SCHEMA, Record, column_names

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
    with _explained("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            whole, torn = _read_bytes(path)
            sheet = _parse(path, whole) if whole else None
            if torn:
                _check_torn(path, whole, torn)
                _set_aside(path, len(whole), torn)
            if sheet is None:
                write_atomic(path, _lines([column_names(), row]))
                return True
            if sheet.names != column_names():
                _keep_older(path, whole, sheet)
                sheet = sheet.upgraded(path)
                write_atomic(path, _lines([sheet.names, *sheet.rows]))
            identity, key = _identity(row), row[_KEY_INDEX]
            alike = (other for other in sheet.rows if len(other) > _KEY_INDEX)
            if any(_identity(one) == identity for one in alike if one[_KEY_INDEX] == key):
                return False
            _append_bytes(path, b"\n" * _lacks_line_end(path) + _lines([row]))
            return True


def read(results_dir: str | Path) -> list[Record]:
    """Return the records of the folder's results file, oldest first, types restored exactly.

    An empty list when the folder has no results file. Takes no lock and changes nothing; an
    incomplete last line is left out with a warning. Raises
    :class:`~dentbench.errors.StoreError` when the folder does not exist, the file is refused or a
    cell is not of its column's type.
    """
    path = Path(results_dir) / RESULTS_FILE
    if not path.parent.is_dir():
        raise StoreError(f"there is no results folder {path.parent}")
    return read_file(path)


def read_file(path: Path) -> list[Record]:
    """Return the records of a results file; none when it does not exist. Else as :func:`read`."""
    with _explained("read", path):
        whole, torn = _read_bytes(path)
        sheet = _parse(path, whole) if whole else None
        if torn:
            _check_torn(path, whole, torn)
            _log.warning("the last line of %s is incomplete and was left out", path)
        return [] if sheet is None else sheet.upgraded(path).records(path)


def is_stream(path: str | Path) -> bool:
    """Return whether a path is a device, a FIFO, a socket, or an open file by /dev or /proc.

    The last, such as /dev/stdout, may lead to a regular file, which others have open.
    """
    whole = Path(path).absolute()
    try:
        mode = whole.stat().st_mode
    except OSError:
        return False
    if stat.S_ISREG(mode) and whole.parts[1:2] in (("dev",), ("proc",)):
        return whole.parts[1:3] != ("dev", "shm")
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _write_into(path: Path, data: bytes) -> None:
    """Write into an existing file or pipe; a reader that has gone raises BrokenPipeError."""
    with _explained("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves either its old content or the new one, never a part.

    Text is written as UTF-8 with its line ends as they are. A symbolic link is followed and the
    file's permissions are kept. What is no regular file (see :func:`is_stream`) is never replaced:
    the content is written into it. Raises :class:`~dentbench.errors.StoreError` when it cannot be
    written, for one because its folder does not exist.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_stream(path):
        _write_into(Path(path), data)
        return
    target = Path(os.path.realpath(path))
    scratch = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    with _explained("write", Path(path)):
        try:
            with scratch.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                scratch.chmod(target.stat().st_mode & 0o7777)
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
        _sync_folder(target.parent)


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


_RENAMED: Final = ((4, "decision", "scores"),)
"""Protocols that rows below a schema know by another name: the schema, that name, the present."""

_NAME_PROTOCOLS: Final = frozenset(
    {"protocol", "worst_protocol", "by_protocol", "skipped", "rechecked", "passes", "diagnostics"}
)
"""The columns that name protocols."""


# --- the file -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sheet:
    """A results file in memory: the names of its columns and its rows of cells."""

    names: tuple[str, ...]
    rows: list[list[str]]

    def upgraded(self, path: Path) -> _Sheet:
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
        return _Sheet(column_names(), rows)

    def _rename(self) -> None:
        """Call the protocols of older rows by their present names, in place."""
        columns = [at for at, name in enumerate(self.names) if name in _NAME_PROTOCOLS]
        for row in self.rows:
            for until, old, new in _RENAMED:
                if _schema_of(row, self.names) < until:
                    for at in columns:
                        row[at] = re.sub(rf"\b{old}\b", new, row[at])

    def records(self, path: Path) -> list[Record]:
        """Return the rows as records; raises StoreError for a cell of a wrong type."""
        columns = []
        for name, cells in zip(self.names, zip(*self.rows, strict=True), strict=False):
            try:  # a column repeats few values, so each is read once
                values = {cell: READERS[name](cell) for cell in set(cells)}
                columns.append([values[cell] for cell in cells])
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
            old = not cell and _schema_of(row, self.names) < SCHEMA
            try:
                values.append(None if old else READERS[name](cell))
            except ValueError:
                raise StoreError(
                    f"{path}, line {number}: {name} is {cell!r}, not {TYPES[name]}; "
                    "correct the line or move the file away"
                ) from None
        return values


def _parse(path: Path, whole: bytes) -> _Sheet:
    """Return the sheet that whole lines hold, or raise StoreError for a file that is refused."""
    try:
        lines = io.TextIOWrapper(io.BytesIO(whole), "utf-8-sig", newline="")
        header, *rows = csv.reader(lines, strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError):
        raise _foreign(path) from None
    names, known = tuple(header), column_names()
    if not {"schema", "key", "protocol"} <= set(names):
        raise _foreign(path)
    newest = max((_schema_of(row, names) for row in rows), default=0)
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
    return _Sheet(names, rows)


def _schema_of(row: Sequence[str], names: Sequence[str]) -> int:
    at = names.index("schema")
    return int(row[at]) if len(row) > at and row[at].isdecimal() else 0


def _foreign(path: Path) -> StoreError:
    return StoreError(
        f"{path} is not a results file of dentbench, so it is left as it is; "
        "move it away or use another results folder"
    )


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


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
    if not whole and not _lines([column_names()]).startswith(torn):
        raise _foreign(path)


def _set_aside(path: Path, length: int, torn: bytes) -> None:
    """Move the incomplete last line to a file beside the results file and warn."""
    aside = path.with_name(path.name + ".torn")
    _append_bytes(aside, torn + b"\n")
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())
    _log.warning("the last line of %s was incomplete; it was moved to %s", path, aside)


def _keep_older(path: Path, whole: bytes, sheet: _Sheet) -> None:
    """Keep a file of an older schema beside its replacement, under a name of its own.

    It is "results.csv.schema-1", with a number where that is taken.
    """
    schema = max((_schema_of(row, sheet.names) for row in sheet.rows), default=0)
    first = path.with_name(f"{path.name}.schema-{schema}")
    numbered = (path.with_name(f"{first.name}.{number}") for number in count(1))
    aside = next(candidate for candidate in chain([first], numbered) if not candidate.exists())
    write_atomic(aside, whole)
    _log.info("%s had older columns; it is kept as %s", path, aside.name)


def _append_bytes(path: Path, data: bytes) -> None:
    """Append in one write and sync; when that fails the file keeps its former length."""
    with path.open("ab", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                raise OSError(28, "no space left for a whole row")
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(length)
            raise


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system can sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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


@contextmanager
def _explained(action: str, path: Path) -> Iterator[None]:
    """Turn the operating system's errors into a StoreError that names the file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"cannot {action} {path}: {reason}") from error
