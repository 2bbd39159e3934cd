"""What a run says of how it goes on: events with named fields, handed to a callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dentbench.attacks.events import AttackBegan


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One protocol on one defense of one model; ``protocol`` is "natural" without an attack."""

    model: str
    defense: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.model} {self.defense} {self.protocol}"


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


Event: TypeAlias = StageBegan | PassesDone | AttackBegan | BatchDone
"""What a run says, in this order: a stage, then attacks, passes and batches of it."""

Progress: TypeAlias = Callable[[Event], Any]
"""A callback for all events of a run, in the process that asked for it."""


@dataclass
class Pace:
    """How fast a stage goes: passes done of those expected.

    ``most``: the bound on the passes, which assumes that every image survives; once a batch is
    finished, the rest is expected to cost what the finished ones did, within that bound.
    """

    most: int
    began: float = field(default_factory=lambda: time.perf_counter())
    expected: int = field(init=False)
    passes: int = 0

    def __post_init__(self) -> None:
        self.expected = self.most

    def learn(self, event: BatchDone) -> None:
        """Expect the remaining batches to cost what the finished ones did."""
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
