"""Parts of the script: each in a process of its own, which is ended when its time is over."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import multiprocessing
import os
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.figures import Figures

AGAIN = 75
"""The exit code of a part whose GPU no longer answers: a new process may go on."""

GRACE = 8.0
"""Seconds from asking a part to end until it is killed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The setting of the parts: where to write, the device, and until when.

    ``out``: the folder of what is kept. ``scratch``: that of what is not. ``device``: "cuda", or
    "cpu" for the dry form, which is ``dry``: everything is tiny. ``data`` and ``train_data``:
    parquet files. ``until``: on the clock of ``time.monotonic``.
    """

    out: Path
    scratch: Path
    device: str
    dry: bool = False
    data: Path | None = None
    train_data: Path | None = None
    until: float = float("inf")

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.until - time.monotonic()

    def figures(self, part: str) -> Figures:
        """Return where a part's figures are written."""
        return Figures(self.out / f"{part}-{'cpu' if self.device == 'cpu' else 'gpu'}.json")


@dataclass(frozen=True, kw_only=True)
class Part:
    """``work``, a "module:function", for at most so many ``seconds``; ``file``: of its figures.

    The function is called with the setting and what else is ``given``. ``needs``: packages.
    ``needed``: the fields of the setting that it cannot do without.
    """

    name: str
    file: str
    seconds: float
    work: str
    given: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()

    def lacking(self, setting: Setting) -> str:
        """Return why it cannot be run, or ""."""
        packages = [need for need in self.needs if importlib.util.find_spec(need) is None]
        options = [
            f"--{item.replace('_', '-')}" for item in self.needed if getattr(setting, item) is None
        ]
        if packages:
            return f"skipped: {', '.join(packages)} is not installed"
        return f"skipped: {', '.join(options)} is not given" if options else ""


class Running:
    """A part that is being run."""

    def __init__(self, part: Part, setting: Setting) -> None:
        self.part, self.setting = part, setting
        self.started = time.monotonic()
        self.process = self._process()

    def _process(self) -> multiprocessing.process.BaseProcess:
        # A fork of a process that never touched the GPU: what it imported is there at once.
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_run, args=(self.part, self.setting))
        process.start()
        return process

    def finish(self) -> str:
        """Wait until it ends or its time is over; return how it ended."""
        while True:
            left = self.setting.left
            self.process.join(None if math.isinf(left) else max(left, 0))
            if self.process.is_alive():
                self._stop()
                return f"cut off after {self._seconds:.0f} s"
            code = self.process.exitcode
            if code != AGAIN:
                how = "done" if code == 0 else f"failed with exit code {code}"
                return f"{how} after {self._seconds:.0f} s"
            self.process = self._process()

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self.started

    def _stop(self) -> None:
        """End the process, and whatever it started: first by asking."""
        assert self.process.pid is not None
        for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            self.process.join(seconds)
        self.process.join(1)


def _run(part: Part, setting: Setting) -> None:
    os.setsid()
    try:
        module, _, function = part.work.partition(":")
        getattr(importlib.import_module(module), function)(setting, *part.given)
    except SystemExit:
        raise
    except BaseException as error:  # whatever it is, it is this part's own
        traceback.print_exc()
        setting.figures(part.file).add(f"{part.name}, error", f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None
