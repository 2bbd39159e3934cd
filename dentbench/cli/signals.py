"""Ctrl-C and SIGTERM at any moment of a command: one sentence, and exit code 130 or 143.

It imports little, for it comes before everything else.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

from dentbench.errors import InterruptedRunError, TerminatedRunError

INTERRUPTED: Final = InterruptedRunError.exit_code
"""The exit code that a parser returns for Ctrl-C."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a run as Ctrl-C does."""


_last: list[type[InterruptedRunError]] = []


def at_once() -> None:
    """End the process at a signal: nothing is begun while modules are loaded."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, _end)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    if "--json" in sys.argv:
        os.write(1, b'{"error": "stopped before anything was done"}\n')
    os.write(2, f"dentbench: stopped before anything was done: {_command()}\n".encode())
    os._exit(128 + number)


@contextmanager
def raised() -> Iterator[None]:
    """Let signals raise KeyboardInterrupt in the block, which stops the work there."""
    _last.clear()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    if before[0] is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _last.append(InterruptedRunError)
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    _last.append(TerminatedRunError)
    raise Terminated


def error(done: str = "stopped; what was finished is kept") -> InterruptedRunError:
    """Return the error of the signal that came first, with the command that goes on."""
    kind = _last[0] if _last else InterruptedRunError
    return kind(f"{done}. The same command goes on from there: {_command()}")


def _command() -> str:
    return shlex.join(["dentbench", *sys.argv[1:]])
