"""How a run goes on: bars, lines or JSON lines on the error stream, or one output of a notebook."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from dentbench.attacks.events import LOGGER
from dentbench.records.outcome import NATURAL
from dentbench.registry import Registry


class Display(StrEnum):
    """How progress is shown; auto: bars on a terminal or in a notebook, lines elsewhere."""

    AUTO = "auto"
    BARS = "bars"
    LINES = "lines"
    JSON = "json"
    NONE = "none"


DISPLAYS: Registry[Display] = Registry("progress display")
"""Every display by its name."""
for _one in Display:
    DISPLAYS.add(_one.value, _one)

SECONDS = 1.0
"""How often JSON lines and notebooks tell of passes at most."""

WIDTH = 80
"""Columns of the bars in a notebook."""


@dataclass
class Stage:
    """Where a stage is: passes done of those expected, batches, and images right so far.

    ``most``: the bound on the passes, which assumes that every image survives; once a batch is
    finished, the rest is expected to cost what the finished ones did, within that bound.
    """

    title: str
    most: int
    started: float
    total: int = field(init=False)
    passes: int = 0
    done: int = 0
    units: int = 0
    correct: int = 0
    judged: int = 0

    def __post_init__(self) -> None:
        self.total = self.most

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """Take note of a finished batch."""
        self.done, self.units, self.correct, self.judged = done, units, correct, judged
        if self.passes:
            self.total = min(self.passes * units // done, max(self.most, self.passes))

    @property
    def rate(self) -> float:
        """Passes per second so far."""
        return self.passes / max(time.perf_counter() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest is expected to take; None before the first pass."""
        return max(self.total - self.passes, 0) / self.rate if self.passes else None


class Shown:
    """A progress that keeps count and shows nothing; the others say what they show, and when."""

    def __init__(self) -> None:
        self.stage = Stage("", 1, time.perf_counter())

    def begin(self, title: str, passes: int) -> None:
        """Start a stage."""
        self.stage = Stage(title, max(passes, 1), time.perf_counter())

    def advance(self, passes: int) -> None:
        """Take note of so many passes of the stage."""
        self.stage.passes = passes

    def attack(self, name: str, left: int, images: int) -> None:
        """Take note that an attack begins on what is left of a batch."""

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """Take note of a finished batch."""
        self.stage.unit_done(done, units, correct, judged)


class Bars(Shown):
    """A bar per stage: batches, the attack and its survivors, images right so far, speed, ETA."""

    def __init__(self, bars: Progress) -> None:
        super().__init__()
        self._bars = bars
        self._task = TaskID(0)
        self._model = ""

    def begin(self, title: str, passes: int) -> None:
        """Start a stage's bar; a model is named once."""
        super().begin(title, passes)
        model, rest = _parts(title)
        if model != self._model:
            self._model = model
            self.head(model)
        self._task = self._bars.add_task(rest, total=self.stage.total, attack="", right="", rate="")

    def head(self, model: str) -> None:
        """Name the model above its bars."""
        self._bars.console.print(model, style="bold", highlight=False, markup=False)

    def advance(self, passes: int) -> None:
        """Move the bar."""
        super().advance(passes)
        rate = f"{_short(self.stage.rate)}/s"
        self._bars.update(self._task, completed=passes, rate=rate)

    def attack(self, name: str, left: int, images: int) -> None:
        """Show the attack and how many of the batch are left."""
        self._bars.update(self._task, attack=f"{name} {left}/{images}")

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """Correct the expected total and show how many images are right so far."""
        super().unit_done(done, units, correct, judged)
        right = f"{100 * correct / judged:.1f}%"
        self._bars.update(
            self._task,
            total=self.stage.total,
            completed=self.stage.total if done == units else self.stage.passes,
            right=f"{done}/{units} {right}",
            attack="",
        )


class Notebook(Bars):
    """Bars in a single output of a notebook, which is written anew now and then.

    It needs no widgets, and a notebook that is kept holds how the run ended.
    """

    def __init__(self) -> None:
        off_screen = Console(file=io.StringIO(), width=WIDTH, force_jupyter=False)
        super().__init__(Progress(*columns(), console=off_screen, auto_refresh=False))
        self._heading = ""
        self._output: Any = None
        self._written = 0.0

    def begin(self, title: str, passes: int) -> None:
        """Start a stage's bar."""
        super().begin(title, passes)
        self._write()

    def head(self, model: str) -> None:
        """Name the model above all bars."""
        self._heading = model

    def advance(self, passes: int) -> None:
        """Move the bar."""
        super().advance(passes)
        if time.perf_counter() - self._written >= SECONDS:
            self._write()

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """Show how many images are right so far."""
        super().unit_done(done, units, correct, judged)
        self._write()

    def _write(self) -> None:
        from IPython.display import display

        page = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
        page.print(self._heading, style="bold", highlight=False, markup=False)
        page.print(self._bars.get_renderable())
        told = {
            "text/plain": page.export_text(clear=False),
            "text/html": page.export_html(inline_styles=True, code_format=_PRE),
        }
        self._written = time.perf_counter()
        if self._output is None:
            self._output = display(told, raw=True, display_id=True)
        else:
            self._output.update(told, raw=True)


_PRE = '<pre style="line-height: normal; font-family: Menlo, Consolas, monospace">{code}</pre>'


class Lines(Shown):
    """A line per finished batch, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """Say how far the stage is."""
        super().unit_done(done, units, correct, judged)
        stage = self.stage
        if done < units and stage.title.endswith(NATURAL):
            return
        text = f"{stage.title}: batch {done} of {units}, "
        text += f"{100 * correct / judged:.1f}% of {judged} right"
        left = stage.seconds_left
        if done < units and left is not None:
            text += f", {_short(stage.rate)} passes/s, {left:.0f} s left"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class JsonLines(Shown):
    """A JSON object per event, one a line, for schedulers; times in seconds."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write
        self._told = 0.0

    def begin(self, title: str, passes: int) -> None:
        """Tell of a stage."""
        super().begin(title, passes)
        self._tell("begin", passes_expected=passes)

    def advance(self, passes: int) -> None:
        """Tell of passes, now and then."""
        super().advance(passes)
        now = time.perf_counter()
        if now - self._told >= SECONDS:
            self._told = now
            self._tell("passes", **self._speed())

    def attack(self, name: str, left: int, images: int) -> None:
        """Tell of an attack."""
        self._tell("attack", attack=name, left=left, images=images)

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """Tell of a batch."""
        super().unit_done(done, units, correct, judged)
        counts = {"batch": done, "batches": units, "right": correct, "images": judged}
        self._tell("batch", **counts, **self._speed())

    def _speed(self) -> dict[str, Any]:
        left = self.stage.seconds_left
        return {
            "passes": self.stage.passes,
            "passes_per_second": round(self.stage.rate, 1),
            "seconds_left": None if left is None else round(left, 1),
        }

    def _tell(self, event: str, **values: Any) -> None:
        self._write(json.dumps({"event": event, "stage": self.stage.title, **values}))


def _parts(title: str) -> tuple[str, str]:
    """Return the model of a stage's title, whose name may have blanks, and the rest."""
    model, *rest = title.rsplit(" ", 2)
    return model, " ".join(rest)


def _short(rate: float) -> str:
    return f"{rate:.0f}" if rate < 1000 else f"{rate / 1000:.1f}k"


class _Told(logging.Handler):
    """Hands what attacks tell on to a progress."""

    def __init__(self, shown: Shown) -> None:
        super().__init__(logging.DEBUG)
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and len(record.args) == 3:
            name, left, images = record.args
            self._shown.attack(str(name), int(str(left)), int(str(images)))


def columns() -> tuple[ProgressColumn, ...]:
    """Return what a bar's line holds; it fits 80 columns."""
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=6),
        TextColumn("{task.fields[right]}", style="bold", markup=False),
        TextColumn("{task.fields[attack]}", markup=False),
        TextColumn("{task.fields[rate]}", style="dim", markup=False),
        TimeRemainingColumn(compact=True),
    )


@contextmanager
def shown_progress(display: Display = Display.AUTO) -> Iterator[Shown]:
    """Show progress for the time of a run, on the error stream or in a notebook's output."""
    console = Console(stderr=True)
    if display is Display.AUTO:
        watched = console.is_terminal or console.is_jupyter
        display = Display.BARS if watched else Display.LINES
    if display is Display.BARS and console.is_jupyter:
        with listening(Notebook()) as shown:
            yield shown
    elif display is Display.BARS:
        bars = Progress(*columns(), console=console, refresh_per_second=4)
        with bars, listening(Bars(bars)) as shown:
            yield shown
        console.print()
    elif display is Display.LINES:
        with listening(Lines(console)) as shown:
            yield shown
    elif display is Display.JSON:
        with listening(JsonLines(lambda line: print(line, file=console.file, flush=True))) as shown:
            yield shown
    else:
        yield Shown()


@contextmanager
def listening(shown: Shown) -> Iterator[Shown]:
    """Tell a progress what attacks tell, for the time of a run."""
    logger = logging.getLogger(LOGGER)
    handler, level, propagate = _Told(shown), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield shown
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
