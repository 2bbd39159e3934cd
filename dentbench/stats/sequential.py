"""Boundaries and intervals for a run that stops on its own results: they allow for every look.

A run is looked at after each of its batches, and may stop at any of them, for whatever reason. A
fixed-size interval, looked at so often, misses far more often than it says. Here every look has a
level of its own: an error-spending function (Kim and DeMets 1987) says how much of the error of
each side may be used up until then, and the joint distribution of the looks (Armitage, McPherson
and Rowe 1969) the level that this leaves for each. The level depends on how many images were
judged of those chosen, not on the results, so that the repeated intervals (Jennison and Turnbull
1989) hold at whatever look a run stops, and fewer looks are only safer. Where batches
are the units, a level is met by Student's t of as many batches (Jennison and Turnbull 2000,
chapter 11), and by no fewer than flipped signs allow. Simulated in
``tests/benchmarks/stopping.py``.

The quantity is that of the fixed-size intervals: the mean paired difference of the population that
the images were drawn from, not of the images that were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dentbench.stats import least_batches, t_quantile

ERROR: Final = 0.025
"""The chance that an end of the interval is ever on the wrong side, over all looks of a run."""

POWER: Final = 2.0
"""The power of the share of images to which the error spent grows: 1 stops early, 3 late."""

MOST_LOOKS: Final = 64
"""With more batches than this a look is taken after every second, third, ... of them."""

_REACH, _CELLS = 6.5, 6500  # the grid of the partial sums, in standard deviations of the last

Floats: TypeAlias = "NDArray[np.float64]"


def look_batches(batches: int) -> tuple[int, ...]:
    """Return after how many batches a run of so many is looked at, the last of them included.

    Raises ``ValueError`` for no batches.
    """
    if batches < 1:
        raise ValueError(f"a run of {batches} batches has no look")
    every = -(-batches // MOST_LOOKS)
    return (*range(every, batches, every), batches)


def levels(sizes: Sequence[int]) -> dict[int, float]:
    """Return the one-sided level of every look, by after how many batches it is taken.

    ``sizes``: the images of each batch that was chosen, in order. A p-value or an interval's end
    that meets the level of its look, whichever look that is, errs with a chance of at most
    :data:`ERROR` in all.
    """
    looks = look_batches(len(sizes))
    ends, total = np.cumsum(sizes), sum(sizes)
    return dict(
        zip(looks, _levels(tuple(int(ends[look - 1]) / total for look in looks)), strict=True)
    )


@dataclass(frozen=True)
class Look:
    """A look of a run: after how many batches and images, and at which one-sided level."""

    batches: int
    images: int
    level: float

    @property
    def few_batches(self) -> float:
        """By how much a design effect grows here, see :func:`few_batches`."""
        return few_batches(self.level, self.batches)


def looks_of(sizes: Sequence[int]) -> tuple[Look, ...]:
    """Return the looks of a run whose batches have these sizes, in order."""
    ends = np.cumsum(sizes)
    return tuple(Look(at, int(ends[at - 1]), level) for at, level in levels(sizes).items())


def level_of_look(sizes: Sequence[int], batches: int) -> float:
    """Return the one-sided level of a look after the first batches of these sizes.

    Before the first look of :func:`looks_of` it is what may be used up until then. Such a look is
    taken where a limit ends a run of very many batches, and adds at most 6e-6 to the error.
    """
    planned = levels(sizes).get(batches)
    return spent(sum(sizes[:batches]) / sum(sizes)) if planned is None else planned


def spent(share: float) -> float:
    """Return the error of one side that may be used up until this share, in [0, 1], of images."""
    return float(ERROR * min(share, 1.0) ** POWER)


@lru_cache
def _levels(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return the level of each look, at increasing shares of the images, the last of them 1.

    The density of the partial sums that crossed no boundary yet is carried from look to look on a
    grid; each boundary leaves the share to be spent beyond it.
    """
    grid = np.linspace(-_REACH, _REACH, 2 * _CELLS + 1)
    width = grid[1] - grid[0]
    density: Floats | None = None
    levels: list[float] = []
    before = 0.0
    for share in shares:
        spread = math.sqrt(share - before)
        reach = min(math.ceil(8 * spread / width), _CELLS)
        steps = width * np.arange(-reach, reach + 1)
        kernel = np.exp(-0.5 * (steps / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
        if density is None:
            density = np.exp(-0.5 * (grid / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
        else:
            density = _convolved(density, kernel) * width
        boundary = _boundary(grid, density, spent(share) - spent(before))
        levels.append(NormalDist().cdf(-boundary / math.sqrt(share)))
        density = np.where(grid < boundary, density, 0.0)
        before = share
    return tuple(levels)


def _convolved(density: Floats, kernel: Floats) -> Floats:
    """Return the convolution, of the density's size, by the fast Fourier transform."""
    size = len(density) + len(kernel) - 1
    length = 1 << (size - 1).bit_length()
    full = np.fft.irfft(np.fft.rfft(density, length) * np.fft.rfft(kernel, length), length)[:size]
    start = (len(kernel) - 1) // 2
    return np.maximum(full[start : start + len(density)], 0.0)


def _boundary(grid: Floats, density: Floats, beyond: float) -> float:
    """Return the point of the grid, interpolated, beyond which lies so much of a density."""
    width = grid[1] - grid[0]
    cells = 0.5 * (density[1:] + density[:-1]) * width
    tail = np.append(np.cumsum(cells[::-1])[::-1], 0.0)
    return float(np.interp(beyond, tail[::-1], grid[::-1]))


# --- the paired difference of one look ------------------------------------------------------------


def score(gained: Any, lost: Any, total: Any, difference: float) -> Any:
    """Return Tango's score statistic of a paired difference of two shares: standard normal there.

    ``gained``, ``lost``: discordant counts among ``total`` pairs, numbers or arrays, whole or not;
    ``difference``: in [-1, 1]. Its variance is that of the difference asked about, which keeps it
    honest where few pairs are discordant, as Wald's is not. Source: Tango 1998, equation 9.
    """
    up, down, n = (np.asarray(counts, dtype=float) for counts in (gained, lost, total))
    if difference < 0:
        return -score(down, up, n, -difference)
    variance = _variance(up, down, n, difference, np.sqrt)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, (up - down - n * difference) / np.sqrt(variance), 0.0)


def _variance(up: Any, down: Any, n: Any, difference: float, root: Callable[[Any], Any]) -> Any:
    """Return the variance of ``up - down`` under a difference in [0, 1], of numbers or arrays."""
    spread = difference * (1 - difference)
    slope = (2 * n - up + down) * difference - up - down
    least = (root(slope**2 + 8 * n * down * spread) - slope) / (4 * n)
    return n * (2 * least + spread)


def _score(up: float, down: float, n: float, difference: float) -> float:
    """Return :func:`score` of single counts, without the cost of arrays."""
    if difference < 0:
        return -_score(down, up, n, -difference)
    variance = _variance(up, down, n, difference, math.sqrt)
    return (up - down - n * difference) / math.sqrt(variance) if variance > 0 else 0.0


@lru_cache(maxsize=1 << 12)
def repeated_interval(
    gained: float, lost: float, total: float, level: float
) -> tuple[float, float]:
    """Return the ends of a paired difference at a look of this one-sided level, in [-1, 1].

    Counts as in :func:`score`, divided by the design effect, if any. Raises
    ``ValueError`` for counts that cannot be.
    """
    if min(gained, lost) < 0 or gained + lost > total * (1 + 1e-12) or not 0 < level < 0.5:
        raise ValueError(f"{gained} gained and {lost} lost of {total} at level {level} cannot be")
    if not total:
        return -1.0, 1.0
    center, z = (gained - lost) / total, -NormalDist().inv_cdf(level)
    return (
        _end(gained, lost, total, (-1.0, center), z),
        _end(gained, lost, total, (center, 1.0), -z),
    )


def _end(
    gained: float, lost: float, total: float, within: tuple[float, float], value: float
) -> float:
    """Return where the score statistic, which falls, takes a value, by bisection."""
    low, high = within
    for _ in range(50):
        middle = (low + high) / 2
        if _score(gained, lost, total, middle) > value:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def will_lose(
    gained: Any, lost: Any, total: int, effect: Any, levels_by_images: Mapping[int, float]
) -> Any:
    """Return whether a loss would be decided by twice the images, at the rates seen so far.

    A gain may be excluded long before a loss is established: a run that stops then would never
    say so. ``effect``: the design effect, 1 of independent images; ``levels_by_images``:
    the level of every look by how many images it has. Numbers or arrays.
    """
    reached = [images for images in levels_by_images if total < images <= 2 * total]
    if not reached:
        return np.zeros(np.shape(gained), dtype=bool)
    times = reached[-1] / total / effect
    z = -NormalDist().inv_cdf(levels_by_images[reached[-1]])
    return score(gained * times, lost * times, total * times, 0.0) < -z


@lru_cache
def few_batches(level: float, batches: int) -> float:
    """Return by how much a design effect grows at a level, for its batches are few: (t / z)^2.

    ``level``: one-sided. Infinite for fewer than :func:`~dentbench.stats.least_batches` of it.
    """
    if batches < least_batches(level):
        return math.inf
    z = -NormalDist().inv_cdf(level)
    return (t_quantile(1 - 2 * level, batches - 1) / z) ** 2


def images_needed(
    counts: tuple[float, float, float], ratio: float | None, later: Iterable[Look], margin: float
) -> int | None:
    """Return how many more images would decide at the rates seen so far, or None if no look does.

    ``counts``: gained, lost and total. ``ratio``: the design effect before it is widened for few
    batches; None for independent images. ``later``: the looks to come. ``margin``: the gain that
    is to be excluded, in [0, 1].
    """
    gained, lost, total = counts
    for look in later:
        effect = 1.0 if ratio is None else ratio * look.few_batches
        if not total or math.isinf(effect):
            continue
        times = look.images / total / effect
        scaled = (gained * times, lost * times, total * times)
        z = -NormalDist().inv_cdf(look.level)
        if float(score(*scaled, margin)) < -z or abs(float(score(*scaled, 0.0))) > z:
            return int(look.images - total)
    return None
