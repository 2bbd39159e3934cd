"""Errors that a user can fix; the command line turns each into one sentence and an exit code."""

from __future__ import annotations

import errno
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
    """A name that no registry knows; the message suggests the nearest names."""


class ModelError(DentBenchError):
    """A model that cannot be loaded, converted or evaluated."""


class UserExitError(ModelError):
    """Code of a user that asked to end the process."""


class DeviceMemoryError(DentBenchError):
    """A batch that does not fit into the memory of its device, and must not be cut."""


class DataError(DentBenchError):
    """A data set or data file that cannot be read or lacks its parts."""


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


_REASONS: Final = {
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file is there, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its symbolic links lead in a circle",
}
"""The fault of a file or folder, by the operating system's number."""


def os_reason(error: OSError) -> str:
    """Return in words why the operating system refused a file or folder."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    said = str(error).strip()
    if isinstance(error, KeyError) or not said:  # a key alone explains nothing
        said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return said.splitlines()[0]


def joined_lines(error: BaseException) -> str:
    """Return all that an error says on one line of 200 characters at most, or its type."""
    return " ".join(str(error).split())[:200] or type(error).__name__
