"""How a run ended that did not judge all of its images: the column ``stopped`` of a record."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final, Literal

from dentbench.records.outcome import Record

MOST_NAMED: Final = 4
"""How many protocols a sentence names at most."""

Rule = Literal["decided", "time limit", "pass limit"]
"""The reason why a run stopped, or would have: a run until decided always has it."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The rule by which a run stopped, and the interval that is valid there.

    ``images``: judged, ``of``: chosen. ``level``: the one-sided level of the look at which it
    stopped, in (0, 0.5), of which :mod:`dentbench.stats.sequential` makes intervals that allow for
    every look; ``low`` and ``high``: the ends of that interval of the gain, in points. They are
    None for a static model, which is compared with nothing. ``not_run``: protocols that were asked
    for, and that a limit left no time to run on these images.
    """

    rule: Rule
    images: int
    of: int
    level: float | None = None
    low: float | None = None
    high: float | None = None
    not_run: tuple[str, ...] = ()

    @property
    def goes_on(self) -> bool:
        """Whether the same command, without a limit, has images or protocols left to run."""
        return self.images < self.of or bool(self.not_run)

    def to_json(self) -> str:
        """Return the text of the column."""
        fields = asdict(self)
        if not self.not_run:
            del fields["not_run"]
        return json.dumps(fields)

    def __str__(self) -> str:
        """Say it in few words."""
        if self.rule == "decided":
            when = "looked at after every batch"
        else:
            when = f"stopped by the {self.rule}"
        if self.not_run:
            few = self.not_run
            if len(few) > MOST_NAMED:
                few = (*few[: MOST_NAMED - 1], f"{len(few) - MOST_NAMED + 1} more protocols")
            when += f" before {', '.join(few)}"
        return f"{when}, {self.images:,} of {self.of:,} images judged"


def stopped(record: Record) -> Stopped | None:
    """Return how a record's run stopped; None for one of a fixed size."""
    return None if record.stopped is None else _parsed(record.stopped)


@lru_cache(maxsize=1 << 12)
def _parsed(text: str) -> Stopped:
    fields = json.loads(text)
    return Stopped(**{**fields, "not_run": tuple(fields.get("not_run", ()))})
