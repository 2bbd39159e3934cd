"""Inference time in units of the static model's, measured so that a busy machine changes little.

On the CPU it is the time that the process was running, in all its threads: while others wait
for the same cores, the wall clock would favor work that fits into a single turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Final

import torch
from torch import Tensor

PAIRS: Final = 5
"""How many pairs of a static and a defended pass are timed."""

ENOUGH_PAIRS: Final = 3
"""With so many, no more are timed once ``ENOUGH_SECONDS`` have passed."""

ENOUGH_SECONDS: Final = 30.0

Forward = Callable[[Tensor], Tensor]
"""A pass that is timed: images (B, C, H, W) to logits (B, classes)."""


def time_ratio(
    static: Forward, defended: Forward, x: Tensor, clock: Callable[[], float] | None = None
) -> float:
    """Return how many times as long ``defended`` takes on the batch ``x`` as ``static`` does.

    Both are run once to warm up, then in turns, each pair giving a ratio; the median of the
    ratios is returned (Table 2 of the paper has such a column, without saying how it was made).
    ``clock`` returns seconds: by default of this process, on a GPU, whose queued work is waited
    for, of the wall.
    """
    clock = clock or (time.perf_counter if x.is_cuda else time.process_time)
    for forward in (static, defended):
        _seconds(forward, x, clock)
    ratios: list[float] = []
    begun = clock()
    while len(ratios) < PAIRS:
        if len(ratios) >= ENOUGH_PAIRS and clock() - begun > ENOUGH_SECONDS:
            break
        base = _seconds(static, x, clock)
        ratios.append(_seconds(defended, x, clock) / max(base, 1e-9))
    return median(ratios)


@torch.no_grad()
def _seconds(forward: Forward, x: Tensor, clock: Callable[[], float]) -> float:
    _wait(x)
    started = clock()
    forward(x)
    _wait(x)
    return clock() - started


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
