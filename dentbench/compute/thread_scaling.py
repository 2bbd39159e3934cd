"""Time how fast a CPU computes a network with its cores shared out; remember it.

The cores work on one batch together, or each on a batch of its own: small operations gain little
from many threads, and the work between them gains nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from dentbench.compute.benchmark import least_seconds, work_on
from dentbench.compute.timing_cache import key_of, remembered

_log = logging.getLogger(__name__)

FILE: Final = "paces.json"
"""The file of timings in the cache folder: seconds by the number of workers."""

ROUNDS: Final = 5
SECONDS: Final = 4.0
"""How often each is timed, and after how long no further round begins."""

CLEARLY: Final = 0.75
"""Several workers must promise to take at most this part of the time of one.

They have less of the caches and of the memory's bandwidth each than they had when they were timed.
"""


def seconds_by_workers(
    network: nn.Module, images: Tensor, cache: Path | None
) -> Mapping[int, float]:
    """Return a forward and gradient's seconds with all cores, a half of them, ... , and one.

    By the number of workers that the cores are enough for: 1, 2, ... , as many as there are cores.
    ``images`` (B, C, H, W): a batch, on a CPU. ``cache``: where the timings are remembered;
    empty without a cache, or where nothing can be written.
    """
    if cache is None:
        return {}
    counts = [2**power for power in range(torch.get_num_threads().bit_length())]

    def find() -> list[float]:
        return _timed(network, images, counts)

    def is_sound(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(seconds, float) for seconds in value)

    try:
        key = key_of(network, images.device, tuple(images.shape))
        timings = remembered(cache / FILE, key, find, is_sound)
    except (OSError, RuntimeError) as error:  # no place to remember it, or too little memory
        _log.debug("the pace is not known: %s", error)
        return {}
    return dict(zip(counts, timings, strict=False))


def fastest(seconds: Mapping[int, float], batches: int) -> int:
    """Return how many workers finish so many batches first, by :func:`seconds_by_workers`.

    One, unless others are clearly faster.
    """

    def whole(workers: int) -> float:
        return -(-batches // workers) * seconds[workers]

    best = min(seconds, key=whole, default=1)
    return best if best > 1 and whole(best) <= CLEARLY * whole(1) else 1


def _timed(network: nn.Module, images: Tensor, counts: list[int]) -> list[float]:
    """Return the least seconds with each share of the cores."""
    cores = torch.get_num_threads()
    work = work_on(network, images)

    def on_a_share(count: int) -> None:
        torch.set_num_threads(cores // count)
        work()

    try:
        return least_seconds([partial(on_a_share, count) for count in counts], ROUNDS, SECONDS)
    finally:
        torch.set_num_threads(cores)
