"""Divide a run into rounds, and limit it; no outcome changes by it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from dentbench.errors import SpecError

DECIDED: Final = "decided"
"""The value of ``until``: stop when the verdict is decided."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rounds and limits of a run.

    ``rounds``: batches of a round; None for as many as are worked on at a time. ``until``: "" or
    :data:`DECIDED`. ``time_limit``: seconds from ``began``, of the monotonic clock; ``pass_limit``:
    single-image passes through the network for each record, its static model's included. A limit
    ends a run before the next batch of a stage; of every record at least the cheapest protocol is
    run on the first batches.
    """

    rounds: int | None = None
    until: str = ""
    time_limit: float | None = None
    pass_limit: int | None = None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 1:
            raise SpecError(f"rounds is {self.rounds}; allowed: whole numbers of batches from 1")
        if self.until not in ("", DECIDED):
            raise SpecError(f"until is {self.until!r}; allowed: {DECIDED}")
        if self.time_limit is not None and self.time_limit <= 0:
            raise SpecError(f"the time limit is {self.time_limit:g} s; give one above 0")
        if self.pass_limit is not None and self.pass_limit < 1:
            raise SpecError(f"the pass limit is {self.pass_limit}; give a whole number from 1")

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the time limit, below 0 when it is over; None without a limit."""
        if self.time_limit is None:
            return None
        return self.began + self.time_limit - time.monotonic()
