"""Progress events of a run, with named fields, handed to a callback."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from dentbench.attacks.attack_events import AttackBegan
from dentbench.stats import percent_text


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A protocol on a defense of a model; ``protocol`` is "natural" without an attack.

    ``run``: the key of its spec, which tells apart stages of a grid that have the same names.
    """

    model: str
    defense: str
    protocol: str
    run: str = ""

    def __str__(self) -> str:
        return f"{self.model} {self.defense} {self.protocol}"


@dataclass(frozen=True, kw_only=True)
class RunPlanned:
    """The plan of a run: the passes that each of its stages is still expected to take.

    ``batches``: how many batches of a stage are expected to be finished in the end, those stored
    before included; all where it says nothing. ``time_limit``: the seconds after which the run
    ends, None without a limit. ``text``: how long it will take, and a shorter run; "" for a short
    run.
    """

    passes: Mapping[Stage, float]
    batches: Mapping[Stage, int] = field(default_factory=dict)
    time_limit: float | None = None
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class PlanChanged:
    """By a round's results, so many batches of some stages are expected to be finished."""

    batches: Mapping[Stage, int]


@dataclass(frozen=True, kw_only=True)
class StageBegan:
    """A stage begins that will cost at most so many single-image passes through the network."""

    stage: Stage
    passes: int


@dataclass(frozen=True, kw_only=True)
class PassesDone:
    """So many single-image passes of the stage are done in all."""

    passes: int


@dataclass(frozen=True, kw_only=True)
class BatchDone:
    """A batch of the stage is finished: number ``done`` of ``batches``.

    ``right``: how many of the ``images`` judged so far are right.
    """

    done: int
    batches: int
    right: int
    images: int


EVERYTHING: Final = 200.0
"""The width in points of an interval that excludes no difference."""


@dataclass(frozen=True, kw_only=True)
class RoundDone:
    """A round is finished: every protocol has had its turn on the first ``images`` of ``of``.

    ``static`` and ``right``: how many are right in the worst case, for the static model and the
    defense. ``points``, ``low`` and ``high``: their difference in points and the interval that
    allows for every look. ``state``: the decision so far; ``more``: about how many more images
    would decide, None where none would or it is decided; ``pending``: how many protocols are still
    to be run on them; ``next_protocol``: which of these begins now, "" for none.
    """

    images: int
    of: int
    static: int
    defense: str
    right: int
    points: float
    low: float
    high: float
    state: str
    more: int | None
    pending: int
    next_protocol: str = ""

    def __str__(self) -> str:
        from dentbench.report.numbers import signed  # late: --help loads no NumPy

        shares = [percent_text(count, self.images) for count in (self.static, self.right)]
        interval = f"{signed(self.low)} to {signed(self.high)}"
        if self.high - self.low >= EVERYTHING:
            interval = "too early for an interval"
        text = (
            f"after {self.images:,} of {self.of:,} images: static {shares[0]}, {self.defense}'s "
            f"worst case {shares[1]}, difference {signed(self.points)} ({interval}), {self.state}"
        )
        if self.state == "undecided":
            text += ": " + (f"about {self.more:,} more" if self.more else "not by all at this rate")
        if self.pending:
            text += f"; {self.pending} protocol{'s' * (self.pending > 1)} not yet run"
        if self.next_protocol:
            text += f", next {self.next_protocol}"
        return text


Event: TypeAlias = (
    RunPlanned | PlanChanged | StageBegan | PassesDone | AttackBegan | BatchDone | RoundDone
)
"""An event: the plan; a stage, then attacks, passes and batches of it; rounds."""

Progress: TypeAlias = Callable[[Event], Any]
"""A callback for all events of a run, in the process that asked for it."""


@dataclass
class Pace:
    """How fast a stage goes: passes done of those expected.

    ``most``: the bound on the passes, which assumes that every image survives; once a batch is
    finished, the rest is expected to cost as much as finished batches, within that bound.
    """

    most: int
    began: float = field(default_factory=lambda: time.perf_counter())
    expected: int = field(init=False)
    passes: int = 0

    def __post_init__(self) -> None:
        self.expected = self.most

    def learn(self, event: BatchDone) -> None:
        """Expect the remaining batches to cost as much as the finished batches."""
        if self.passes:
            whole = self.passes * event.batches // event.done
            self.expected = min(whole, max(self.most, self.passes))

    @property
    def rate(self) -> float:
        """Passes per second so far."""
        return self.passes / max(time.perf_counter() - self.began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest is expected to take; None before the first pass."""
        return max(self.expected - self.passes, 0) / self.rate if self.passes else None


class Whole:
    """How far all stages of a run are together, from its events.

    The rest of a stage is expected to cost as much as its finished batches, and as planned
    before there are any; of a stage that was not planned, such as a protocol that turns out to be
    needed, its bound is expected. A run that may stop is expected to work through as many batches
    as the last round, or else the plan, makes likely, and to end by its time limit.
    """

    def __init__(self) -> None:
        self.planned: dict[Stage, float] = {}
        self._left: dict[Stage, float] = {}
        self._done = 0
        self._stage: Stage | None = None
        self._passes = 0
        self._batches: dict[Stage, tuple[int, int]] = {}
        self._finished: dict[Stage, int] = {}
        self._expected: dict[Stage, int] = {}
        self._ends = math.inf
        self._spent_before = 0
        self._began: float | None = None  # the checks before the first stage are no pace

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case RunPlanned(passes=passes, batches=batches, time_limit=limit):
                self.planned = dict(passes)
                self._left = dict(passes)
                self._expected = dict(batches)
                self._ends = math.inf if limit is None else time.perf_counter() + limit
                self._done = self._spent_before = 0
                self._began = None
                self._batches.clear()
                self._finished.clear()
            case PlanChanged(batches=expected):
                self._expected |= expected
                for stage in expected.keys() & self._batches.keys():
                    self._left[stage] = self._rest(stage)
            case StageBegan(stage=stage, passes=passes):
                self._stage, self._passes = stage, 0
                self._began = time.perf_counter() if self._began is None else self._began
                if self.planned:
                    self._left.setdefault(stage, float(passes))
            case PassesDone(passes=passes):
                self._done += passes - self._passes
                self._passes = passes
            case BatchDone(done=done, batches=batches) if self._stage is not None:
                self._expected.setdefault(self._stage, batches)
                self._learn(self._stage, done)

    def _learn(self, stage: Stage, done: int) -> None:
        """Expect the rest of a stage to cost as much as its batches of this run."""
        spent, count = self._batches.get(stage, (0, 0))
        self._batches[stage] = (spent + self._done - self._spent_before, count + 1)
        self._spent_before = self._done
        self._finished[stage] = done
        self._left[stage] = self._rest(stage)

    def _rest(self, stage: Stage) -> float:
        """Return the passes that the batches of a stage are expected to take yet."""
        spent, count = self._batches[stage]
        return spent / count * max(self._expected[stage] - self._finished[stage], 0)

    @property
    def share(self) -> float:
        """The share of the passes that is done, in [0, 1]."""
        whole = self._done + sum(self._left.values())
        if self.planned and self._done:
            rate, in_time = self._pace
            whole = min(whole, self._done + in_time * rate)
        return min(self._done / whole, 1.0) if whole else 0.0

    @property
    def _pace(self) -> tuple[float, float]:
        """The passes per second so far, and the seconds until the time limit."""
        now = time.perf_counter()
        gone = 0.0 if self._began is None else now - self._began
        return self._done / max(gone, 1e-9), max(self._ends - now, 0.0)

    @property
    def seconds_left(self) -> float | None:
        """How long all the rest is expected to take; None without a plan or a first pass."""
        if not self.planned or not self._done:
            return None
        rate, in_time = self._pace
        current = self._left.get(self._stage, 0.0) if self._stage is not None else 0.0
        ahead = min(self._done - self._spent_before, current)
        rest = max(sum(self._left.values()) - ahead, 0.0) / rate
        return min(rest, in_time)


def duration_text(seconds: float) -> str:
    """Return a duration in few words, such as "12 s", "4 min" or "3.4 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36e4 else f"{seconds / 86400:,.0f} days"
