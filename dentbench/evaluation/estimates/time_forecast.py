"""Say how long runs will take, and how to have them shorter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dentbench.evaluation.progress.events import RunPlanned, Stage, duration_text

LONG: Final = 60.0
"""Runs of at least so many seconds say before they begin how long they will take."""


@dataclass(frozen=True, kw_only=True)
class TimeForecast:
    """How many seconds runs will take; those of several runs add up.

    ``whole``: of the full evaluation; ``low`` and ``high``: its ends. ``decided``: of a run until
    decided, which is ``whole`` where there is no defense to judge. ``quick``: of the attack
    "quick". ``within``: what a pass limit leaves of the run that was asked for; ``time_limit``: the
    seconds left until its time limit, None without. ``passes``: the passes that each stage is
    expected to take yet; ``batches``: how many of its batches will be finished in the end.
    """

    passes: Mapping[Stage, float]
    batches: Mapping[Stage, int]
    until_decided: bool
    whole: float
    decided: float
    quick: float
    low: float
    high: float
    within: float
    time_limit: float | None = None

    def __add__(self, other: TimeForecast) -> TimeForecast:
        """Return the forecast of both runs, one after the other."""
        passes = dict(self.passes)
        for stage, more in other.passes.items():
            passes[stage] = passes.get(stage, 0.0) + more
        numbers = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("whole", "decided", "quick", "low", "high", "within")
        }
        return TimeForecast(
            passes=passes,
            batches={**self.batches, **other.batches},
            until_decided=self.until_decided,
            time_limit=self.time_limit if other.time_limit is None else other.time_limit,
            **numbers,
        )

    @property
    def text(self) -> str:
        """How long the runs will take, and how to have them shorter; "" for short runs."""
        stops = self.until_decided and self.decided < self.whole
        shown = self.decided if stops else self.whole
        if shown < LONG:
            return ""
        share = shown / self.whole
        ends = f"({duration_text(self.low * share)} to {duration_text(self.high * share)})"
        text = f"about {duration_text(shown)} on this machine {ends}"
        if stops:
            text = f"until decided {text} if the cheapest protocol decides"
            text = f"{text}; the full evaluation about {duration_text(self.whole)}"
        else:
            if self.decided < self.whole / 2:
                text += f"; `--until decided` about {duration_text(self.decided)}"
            if self.quick < self.whole / 2:
                text += f"; `--attack quick` about {duration_text(self.quick)}"
        if (ends_after := self._ends_after) < shown:
            text += f"; the limit ends it after about {duration_text(ends_after)}"
        return text

    @property
    def _ends_after(self) -> float:
        return self.within if self.time_limit is None else min(self.within, self.time_limit)


def planned(forecast: TimeForecast) -> RunPlanned:
    """Return the event that announces runs so forecast."""
    return RunPlanned(
        passes=forecast.passes,
        batches=forecast.batches,
        time_limit=forecast.time_limit,
        text=forecast.text,
    )
