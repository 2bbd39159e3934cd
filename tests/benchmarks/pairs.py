"""Paired timing: the things compared take turns, so that what slows one slows the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Work = Callable[[], object]

PAUSE = 0.05
"""Seconds."""


def timed(
    works: Mapping[str, Work], rounds: int = 7, *, calls: int = 1, limit: float = float("inf")
) -> dict[str, list[float]]:
    """Return the wall-clock seconds of a call of each work in each round, after one to warm up.

    ``calls`` in a row are timed together, as a run makes them. Before them there is a pause: the
    threads of another process wait actively for a while. After ``limit`` seconds no further round
    begins, once there is one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    begun = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > 1 and time.perf_counter() - begun > limit:
            break
        for name, work in works.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            for _ in range(calls):
                work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append((time.perf_counter() - started) / calls)
    return seconds


def ratio(one: list[float], other: list[float]) -> float:
    """Return the median over the rounds of one's seconds over the other's."""
    return median(a / b for a, b in zip(one, other, strict=True))
