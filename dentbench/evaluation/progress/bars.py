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

from dentbench.attacks.attack_events import AttackBegan
from dentbench.evaluation.progress.events import (
    BatchDone,
    Event,
    Pace,
    PassesDone,
    RoundDone,
    RunPlanned,
    Stage,
    StageBegan,
    Whole,
    duration_text,
)
from dentbench.stats import percent_text

SECONDS: Final = 1.0
"""The least time between two writings of passes in a notebook."""

WIDTH: Final = 80
"""Columns of the bars in a notebook."""

_PRE: Final = (
    '<pre style="line-height: normal; font-family: Menlo, Consolas, monospace">{code}</pre>'
)


def columns() -> tuple[ProgressColumn, ...]:
    """Return the line of a bar; it fits 80 columns."""
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

    def __init__(self, bars: Progress, whole: Whole) -> None:
        self._bars = bars
        self._task = TaskID(0)
        self._model = ""
        self._pace = Pace(most=1)
        self._stage: Stage | None = None
        self._whole = whole
        self._all: TaskID | None = None
        self._tasks: dict[Stage, TaskID] = {}
        self._right: dict[Stage | None, str] = {}

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._whole(event)
        self._show_whole()
        match event:
            case RunPlanned(text=text):
                if text:
                    self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)
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
            case RoundDone():
                self._end_round(event)

    def _show_whole(self) -> None:
        """Move the bar of all stages together, below those of the stages."""
        if self._whole.planned and self._all is None:
            self._all = self._bars.add_task("all", total=1, attack="", right="", rate="")
        if self._all is None:
            return
        left = self._whole.seconds_left
        rest = "" if left is None else f"{duration_text(left)} left"
        self._bars.update(self._all, completed=self._whole.share, attack=rest)

    def _end_round(self, event: RoundDone) -> None:
        """Say where the comparison stands."""
        self._bars.console.print(str(event), highlight=False, markup=False, soft_wrap=True)

    def _begin(self, event: StageBegan) -> None:
        """Start a stage's bar; a model is named once."""
        self._pace = Pace(most=max(event.passes, 1))
        self._stage = stage = event.stage
        if stage.model != self._model:
            self._model = stage.model
            self._head(stage.model)
        if stage in self._tasks:  # another round of it
            self._task = self._tasks[stage]
            right = self._right.get(stage, "")
            total = self._pace.expected
            self._bars.reset(self._task, total=total, attack="", right=right, rate="")
            return
        self._tasks[stage] = self._task = self._bars.add_task(
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
        share = percent_text(event.right, event.images)
        right = f"{event.done}/{event.batches} {share}"
        self._bars.update(
            self._task,
            total=pace.expected,
            completed=pace.expected if event.done == event.batches else pace.passes,
            right=right,
            attack="",
        )
        self._right[self._stage] = right


class Notebook(Bars):
    """Bars in a single output of a notebook, which is written anew now and then.

    It needs no widgets, and a notebook that is kept holds how the run ended.
    """

    def __init__(self, whole: Whole) -> None:
        off_screen = Console(file=io.StringIO(), width=WIDTH, force_jupyter=False)
        super().__init__(Progress(*columns(), console=off_screen, auto_refresh=False), whole)
        self._heading = self._standing = ""
        self._output: Any = None
        self._written = 0.0

    def __call__(self, event: Event) -> None:
        """Show an event: passes from time to time, stages and batches at once."""
        super().__call__(event)
        often = isinstance(event, PassesDone)
        if isinstance(event, StageBegan | BatchDone | RoundDone) or (
            often and time.perf_counter() - self._written >= SECONDS
        ):
            self._write()

    def _head(self, model: str) -> None:
        """Name the model above all bars."""
        self._heading = model

    def _end_round(self, event: RoundDone) -> None:
        """Say below the bars where the comparison stands."""
        self._standing = str(event)

    def _write(self) -> None:
        from IPython.display import display

        page = Console(file=io.StringIO(), width=WIDTH, record=True, force_jupyter=False)
        page.print(self._heading, style="bold", highlight=False, markup=False)
        page.print(self._bars.get_renderable())
        if self._standing:
            page.print(self._standing, highlight=False, markup=False)
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
