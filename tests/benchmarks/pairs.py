"""Paired timing: the works compared take turns, so that a slow moment slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch

Work = Callable[[], object]
"""Where it is done in another process, it has a method ``cpu_seconds``, that process's clock."""

PAUSE = 0.05
"""Seconds."""


@dataclass(frozen=True)
class Times:
    """Seconds of a call in each round: by the clock on the wall, and of all threads' CPU time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def timed(
    works: Mapping[str, Work], rounds: int = 7, *, calls: int = 1, limit: float = float("inf")
) -> dict[str, list[float]]:
    """Return the wall-clock seconds that :func:`times` finds."""
    result = times(works, rounds, calls=calls, limit=limit)
    return {name: item.wall for name, item in result.items()}


def times(
    works: Mapping[str, Work], rounds: int = 7, *, calls: int = 1, limit: float = float("inf")
) -> dict[str, Times]:
    """Return the seconds of a call of each work in each round, after one to warm up.

    ``calls`` in a row are timed together, as a run makes them. Before them there is a pause: the
    threads of another process wait actively for a while. After ``limit`` seconds no further round
    begins, once there is one.
    """
    seconds = {name: Times() for name in works}
    begun = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > 1 and time.perf_counter() - begun > limit:
            break
        for name, work in works.items():
            time.sleep(PAUSE)
            cpu_seconds = getattr(work, "cpu_seconds", time.process_time)
            before = cpu_seconds()
            started = time.perf_counter()
            for _ in range(calls):
                work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].wall.append((time.perf_counter() - started) / calls)
                seconds[name].cpu.append((cpu_seconds() - before) / calls)
    return seconds


def ratio(first: list[float], other: list[float]) -> float:
    """Return the median over the rounds of the first work's seconds over the other's."""
    return median(a / b for a, b in zip(first, other, strict=True))
