"""Errors that a user can fix; the command line turns each into one sentence and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

NOT_GAINED: Final = 3
"""The exit code when a gain was required and is not there; it is no error."""


class DentBenchError(Exception):
    """Root of every error that a user can fix: what was got, what is allowed, what to do.

    ``exit_code`` is the process's exit status when the error reaches the command line.
    """

    exit_code = 2


class SpecError(DentBenchError, ValueError):
    """An option or a combination of options that is not allowed."""


class UnknownNameError(SpecError):
    """A name that no registry knows; the message suggests the nearest ones."""


class ModelError(DentBenchError):
    """A model that cannot be loaded, converted or evaluated."""


class UserExitError(ModelError):
    """Code of a user that asked to end the process."""


class DeviceMemoryError(DentBenchError):
    """A batch that does not fit into the memory of its device, and must not be cut."""


class DataError(DentBenchError):
    """A data set or data file that cannot be read or does not hold what it should."""


class FetchError(DentBenchError):
    """A download that did not end in a verified file."""


class StoreError(DentBenchError):
    """A results folder or results file that cannot be read or written."""


class WorkerError(DentBenchError):
    """A worker process that cannot be given its work, or died at it too often."""


class InterruptedRunError(DentBenchError):
    """A run that the user stopped; what was finished is on disk, the message says how to resume."""

    exit_code = 130


class TerminatedRunError(InterruptedRunError):
    """A run that was told to end (SIGTERM), by a scheduler for example."""

    exit_code = 143


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Run code of a user as :func:`staying` does; what it prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr), staying():
        yield


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """Turn ``sys.exit`` in code of a user into :class:`UserExitError`."""
    try:
        yield
    except SystemExit as stopped:
        code = "" if stopped.code is None else repr(stopped.code)
        raise UserExitError(
            f"code of the model, the defense or the attack ends the process by sys.exit({code})"
        ) from stopped
