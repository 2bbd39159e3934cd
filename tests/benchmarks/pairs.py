"""Paired timing: the things compared take turns, so that what slows one slows the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Work = Callable[[], object]


def timed(works: Mapping[str, Work], rounds: int = 7) -> dict[str, list[float]]:
    """Return the wall-clock seconds of each work in each round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(one: list[float], other: list[float]) -> float:
    """Return the median over the rounds of one's seconds over the other's."""
    return median(a / b for a, b in zip(one, other, strict=True))
