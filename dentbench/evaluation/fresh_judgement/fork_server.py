"""Fork new processes that have the libraries loaded and nothing run, from a server.

The server is a Python of its own, not a copy of the command: it shares no state with it,
and does not run its main module again. It ends with the command.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final, TypeAlias, TypeVar

from dentbench.errors import WorkerError, first_line
from dentbench.evaluation.workers.process_pool import LOADED_LATE

Answer = TypeVar("Answer")

_Asks: TypeAlias = Any
"""The end of a pipe that questions are written to: a Connection, whose type differs by version."""

_Answered: TypeAlias = Any
"""The end of another that answers are read from."""

_CODE: Final = (
    "import sys; sys.path[:] = {path!r}; "
    "from dentbench.evaluation.fresh_judgement import fork_server; "
    "fork_server.serve(*{handles!r}, {preloaded!r})"
)

_LOADED: Final = (
    "dentbench.evaluation.fresh_judgement.judge_process",
    "dentbench.defenses.user_defined",
    LOADED_LATE,
)
"""Modules that the server loads, so that forks need not."""


class Server:
    """Starts when :meth:`start` is called, or at the first call; used by one thread at a time.

    ``preloaded``: names of modules that it loads beside its own.
    """

    def __init__(self, preloaded: Sequence[str] = ()) -> None:
        self.preloaded = tuple(preloaded)
        self._connection: tuple[_Asks, _Answered] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> tuple[_Asks, _Answered]:
        """Start the server if there is none, without waiting for it."""
        if self._process is not None and self._process.poll() is not None:
            self._connection = self._process = None
        if self._connection is None:
            # Pipes, not a socket: offline, no socket is made.
            asked, asks = Pipe(duplex=False)
            answered, answers = Pipe(duplex=False)
            handles = asked.fileno(), answers.fileno()
            code = _CODE.format(path=sys.path, handles=handles, preloaded=self.preloaded)
            # Imports may print, as they have here already; errors come as answers.
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=handles,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            asked.close()
            answers.close()
            self._connection = asks, answered
        return self._connection

    def call(self, function: Callable[[bytes], Answer], argument: bytes) -> Answer:
        """Call a function of a module in a new process and return its answer.

        Raises :class:`~dentbench.errors.WorkerError` with the reason where it fails there.
        """
        asks, answered = self.start()
        try:
            asks.send_bytes(pickle.dumps(function))
            asks.send_bytes(argument)
            good, answer = pickle.loads(answered.recv_bytes())
        except (EOFError, OSError) as error:
            self._connection = self._process = None
            raise WorkerError(f"the process that starts others has ended ({error})") from None
        if not good:
            raise WorkerError(str(answer))
        result: Answer = answer
        return result


SERVER: Final = Server()
"""The server of this process."""


def serve(asked: int, answers: int, preloaded: Sequence[str] = ()) -> None:
    """Carry out calls, each in a fork, until the other end of the pipe ``asked`` is closed.

    ``asked`` and ``answers``: the pipes' file descriptors.
    """
    # Ctrl-C is for the command, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in (*_LOADED, *preloaded):
        importlib.import_module(name)
    gc.freeze()  # forks share these pages: no collection there shall touch, and so copy, them
    reading, writing = Connection(asked, writable=False), Connection(answers, readable=False)
    while True:
        try:
            function = reading.recv_bytes()
            argument = reading.recv_bytes()
        except (EOFError, OSError):
            return
        good, answer = forked(lambda f=function, a=argument: pickle.loads(f)(a))  # type: ignore[misc]
        writing.send_bytes(pickle.dumps((good, answer)))


def forked(work: Callable[[], object]) -> tuple[bool, object]:
    """Return whether ``work`` succeeded in a fork of this process, and its answer or the reason."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            data = pickle.dumps((True, work()))
        except BaseException as error:  # the other side gets any error
            text = first_line(error)
            data = pickle.dumps((False, text))
        try:
            with os.fdopen(writing, "wb") as file:
                file.write(data)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    _, status = os.waitpid(child, 0)
    if not data:
        return False, f"the process ended with status {os.waitstatus_to_exitcode(status)}"
    good, answer = pickle.loads(data)
    return good, answer
