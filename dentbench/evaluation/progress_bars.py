"""Progress as bars: on a terminal, or in a single output of a notebook."""

from __future__ import annotations

import io
import time
from typing import Any, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from dentbench.attacks.events import AttackBegan
from dentbench.evaluation.progress import BatchDone, Event, Pace, PassesDone, StageBegan

SECONDS: Final = 1.0
"""The least time between two writings of passes in a notebook."""

WIDTH: Final = 80
"""Columns of the bars in a notebook."""

_PRE: Final = (
    '<pre style="line-height: normal; font-family: Menlo, Consolas, monospace">{code}</pre>'
)


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


class Bars:
    """A bar per stage: batches, the attack and its survivors, images right so far, speed, ETA."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = TaskID(0)
        self._model = ""
        self._pace = Pace(most=1)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case StageBegan():
                self._begin(event)
            case PassesDone(passes=passes):
                self._pace.passes = passes
                rate = f"{short(self._pace.rate)}/s"
                self._bars.update(self._task, completed=passes, rate=rate)
            case AttackBegan(attack=name, left=left, images=images):
                self._bars.update(self._task, attack=f"{name} {left}/{images}")
            case BatchDone():
                self._end_batch(event)

    def _begin(self, event: StageBegan) -> None:
        """Start a stage's bar; a model is named once."""
        self._pace = Pace(most=max(event.passes, 1))
        stage = event.stage
        if stage.model != self._model:
            self._model = stage.model
            self._head(stage.model)
        self._task = self._bars.add_task(
            f"{stage.defense} {stage.protocol}",
            total=self._pace.expected,
            attack="",
            right="",
            rate="",
        )

    def _head(self, model: str) -> None:
        """Name the model above its bars."""
        self._bars.console.print(model, style="bold", highlight=False, markup=False)

    def _end_batch(self, event: BatchDone) -> None:
        """Correct the expected total and show how many images are right so far."""
        pace = self._pace
        pace.learn(event)
        self._bars.update(
            self._task,
            total=pace.expected,
            completed=pace.expected if event.done == event.batches else pace.passes,
            right=f"{event.done}/{event.batches} {100 * event.right / event.images:.1f}%",
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

    def __call__(self, event: Event) -> None:
        """Show an event: passes now and then, stages and batches at once."""
        super().__call__(event)
        often = isinstance(event, PassesDone)
        if isinstance(event, StageBegan | BatchDone) or (
            often and time.perf_counter() - self._written >= SECONDS
        ):
            self._write()

    def _head(self, model: str) -> None:
        """Name the model above all bars."""
        self._heading = model

    def _write(self) -> None:
        from IPython.display import display

        page = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
        page.print(self._heading, style="bold", highlight=False, markup=False)
        page.print(self._bars.get_renderable())
        output = {
            "text/plain": page.export_text(clear=False),
            "text/html": page.export_html(inline_styles=True, code_format=_PRE),
        }
        self._written = time.perf_counter()
        if self._output is None:
            self._output = display(output, raw=True, display_id=True)
        else:
            self._output.update(output, raw=True)


def short(rate: float) -> str:
    """Return passes per second in few characters."""
    return f"{rate:.0f}" if rate < 1000 else f"{rate / 1000:.1f}k"
