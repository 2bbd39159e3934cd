"""Keep a command's streams, folders and variables from doing harm."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from dentbench.cli import json_output
from dentbench.errors import StoreError, os_reason


def mend() -> None:
    """Mend a terminal without a width, and a standard output that was closed."""
    for name in ("COLUMNS", "LINES"):  # libraries expect numbers from 1 there
        value = os.environ.get(name, "1")
        if not (value.isdecimal() and int(value)):
            del os.environ[name]
    if sys.stdout is None:  # else the next file that is opened would be standard output
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (it stays open)
        typer.echo("dentbench: standard output is closed, so nothing is printed", err=True)


@contextlib.contextmanager
def written_out(arguments: Sequence[str]) -> Iterator[None]:
    """Flush standard output, and report in a sentence where it takes no more.

    The document of ``--json`` among the arguments has it to itself.
    """
    json_output.clear()
    try:
        try:
            with json_output.alone(arguments):
                yield
        except BaseException as error:
            json_output.add_error(arguments, error)
            raise
        finally:
            json_output.deliver()
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EBADF, errno.EFBIG):
            raise
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (Python flushes it at its end)
        raise StoreError(
            f"standard output cannot be written: {os_reason(error)}; what was computed is kept, "
            "so run the same command again once there is room"
        ) from error


def write_any_character() -> None:
    """Write characters that a terminal's encoding lacks by name, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
        if isinstance(stream, io.TextIOWrapper) and not encoding.startswith("utf"):
            stream.reconfigure(errors="namereplace")


@contextlib.contextmanager
def working_folder_last() -> Iterator[None]:
    """Let files of the working folder be imported, by processes that are started too.

    A model or a defense may import late; Python itself adds the folder to ``python -m`` alone.
    """
    folder = ""
    with contextlib.suppress(OSError):  # the folder may have been removed
        folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:  # the last of it: one before is the caller's own
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]
