"""How progress is shown: bars, lines or JSON lines on the error stream, or a notebook's output."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress as RichProgress

from dentbench.attacks.attack_events import AttackBegan
from dentbench.evaluation.progress.bars import Bars, Notebook, columns, short
from dentbench.evaluation.progress.display_names import Display
from dentbench.evaluation.progress.events import (
    BatchDone,
    Event,
    Pace,
    PassesDone,
    Progress,
    RoundDone,
    RunPlanned,
    Stage,
    StageBegan,
    Whole,
    duration_text,
)
from dentbench.records.outcome import NATURAL
from dentbench.stats import percent_text

SECONDS: Final = 1.0
"""The least time between two JSON lines of passes."""

_NO_STAGE: Final = Stage(model="", defense="", protocol="")


class Lines:
    """A line per finished batch, for logs and pipes."""

    def __init__(self, console: Console, whole: Whole) -> None:
        self._console = console
        self._stage, self._pace = _NO_STAGE, Pace(most=1)
        self._whole = whole

    def __call__(self, event: Event) -> None:
        """Say how far the stage, and the run, is when a batch is finished."""
        self._whole(event)
        match event:
            case RunPlanned(text=text):
                if text:
                    self._console.print(text, highlight=False, markup=False, soft_wrap=True)
            case StageBegan(stage=stage, passes=passes):
                self._stage, self._pace = stage, Pace(most=max(passes, 1))
            case PassesDone(passes=passes):
                self._pace.passes = passes
            case BatchDone():
                self._pace.learn(event)
                if event.done == event.batches or self._stage.protocol != NATURAL:
                    self._print(event)
            case RoundDone():
                self._console.print(str(event), highlight=False, markup=False, soft_wrap=True)

    def _print(self, event: BatchDone) -> None:
        text = f"{self._stage}: batch {event.done} of {event.batches}, "
        text += f"{percent_text(event.right, event.images)} of {event.images} right"
        left = self._pace.seconds_left
        if event.done < event.batches and left is not None:
            text += f", {short(self._pace.rate)} passes/s, {left:.0f} s left"
        whole = self._whole.seconds_left
        if whole is not None and whole >= 1:
            text += f"; of all {100 * self._whole.share:.0f}%, {duration_text(whole)} left"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class JsonLines:
    """A JSON object per event and line, for schedulers; times in seconds."""

    def __init__(self, write: Callable[[str], None], whole: Whole) -> None:
        self._line = write
        self._stage, self._pace = _NO_STAGE, Pace(most=1)
        self._whole = whole
        self._written = 0.0

    def __call__(self, event: Event) -> None:
        """Write an event; passes now and then."""
        self._whole(event)
        match event:
            case RunPlanned(passes=passes, text=text) if passes:
                expected = round(sum(passes.values()))
                self._line(json.dumps({"event": "plan", "passes_expected": expected, "text": text}))
            case StageBegan(stage=stage, passes=passes):
                self._stage, self._pace = stage, Pace(most=max(passes, 1))
                self._write("begin", passes_expected=passes)
            case PassesDone(passes=passes):
                self._pace.passes = passes
                now = time.perf_counter()
                if now - self._written >= SECONDS:
                    self._written = now
                    self._write("passes", **self._speed())
            case AttackBegan(attack=name, left=left, images=images):
                self._write("attack", attack=name, left=left, images=images)
            case BatchDone(done=done, batches=batches, right=right, images=images):
                self._pace.learn(event)
                counts = {"batch": done, "batches": batches, "right": right, "images": images}
                self._write("batch", **counts, **self._speed())
            case RoundDone():
                self._line(json.dumps({"event": "round", **asdict(event)}))

    def warn(self, text: str) -> None:
        """Write a warning."""
        self._line(json.dumps({"event": "warning", "text": text}))

    def _speed(self) -> dict[str, Any]:
        left, whole = self._pace.seconds_left, self._whole.seconds_left
        return {
            "passes": self._pace.passes,
            "passes_per_second": round(self._pace.rate, 1),
            "seconds_left": None if left is None else round(left, 1),
            **({} if whole is None else {"seconds_left_of_all": round(whole, 1)}),
        }

    def _write(self, event: str, **values: Any) -> None:
        self._line(json.dumps({"event": event, "stage": str(self._stage), **values}))


@contextmanager
def _warnings_to(warn: Callable[[str], None]) -> Iterator[None]:
    """Hand the package's warnings to a function, in place of the error stream as text."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warn(record.getMessage())

    log, handler = logging.getLogger("dentbench"), Handler(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def shown_progress(
    display: Display = Display.AUTO, whole: Whole | None = None
) -> Iterator[Progress | None]:
    """Show progress for the time of a run, on the error stream or in a notebook's output.

    ``whole``: how far this run and others are together; by default this run alone.
    """
    console, whole = Console(stderr=True), whole or Whole()
    if display is Display.AUTO:
        watched = console.is_terminal or console.is_jupyter
        display = Display.BARS if watched else Display.LINES
    if display is Display.BARS and console.is_jupyter:
        yield Notebook(whole)
    elif display is Display.BARS:
        bars = RichProgress(*columns(), console=console, refresh_per_second=4)
        with bars:
            yield Bars(bars, whole)
        console.print()
    elif display is Display.LINES:
        yield Lines(console, whole)
    elif display is Display.JSON:
        lines = JsonLines(lambda line: print(line, file=console.file, flush=True), whole)
        with _warnings_to(lines.warn):
            yield lines
    else:
        yield None
