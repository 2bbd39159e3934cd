"""Progress bars of a run, on the error stream, driven by counted passes through the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dentbench.outcome import NATURAL


class RunProgress:
    """Shows one bar per stage: passes done of those expected, images right so far, ETA.

    The bound on the passes assumes that every image survives; once a batch is finished, the rest
    is expected to cost what the finished ones did.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._passes = 0

    def begin(self, title: str, passes: int) -> None:
        """Start a stage's bar."""
        self._passes = 0
        self._task = self._bars.add_task(title, total=max(passes, 1), right="")

    def advance(self, passes: int) -> None:
        """Move the bar to so many passes."""
        self._passes = passes
        if self._task is not None:
            self._bars.update(self._task, completed=passes)

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """Correct the expected total and show how many images are right so far."""
        if self._task is not None:
            total = max(self._passes * units // done, 1)
            shown = f"{100 * correct / judged:.1f}% of {judged}"
            self._bars.update(self._task, completed=self._passes, total=total, right=shown)


class PlainProgress:
    """One line per finished stage, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = ""

    def begin(self, title: str, passes: int) -> None:
        """Remember what is being run."""
        del passes
        self._title = title

    def advance(self, passes: int) -> None:
        """Say nothing in between."""

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """Say how far the stage is."""
        if done == units or not self._title.endswith(NATURAL):
            share = f"{100 * correct / judged:.1f}% of {judged} right"
            self._console.print(f"{self._title}: batch {done} of {units}, {share}", highlight=False)


@contextmanager
def shown_progress() -> Iterator[RunProgress | PlainProgress]:
    """Show bars on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[right]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        yield RunProgress(bars)
