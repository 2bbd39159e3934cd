"""Intervals and tests for counts of images: closed forms, standard library only."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

CONFIDENCE = 0.95
"""The confidence level of every interval that a report shows."""


@lru_cache
def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}; it must lie between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Wilson score interval of a share of ``count`` in ``total``, both ends in [0, 1].

    (0, 1) for a total of zero. Raises ``ValueError`` unless 0 <= count <= total. Source: Wilson
    1927; Brown, Cai, DasGupta 2001, equation 4.
    """
    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total} is not a share")
    if total == 0:
        return 0.0, 1.0
    z = _quantile(confidence)
    share, scale = count / total, 1 + z * z / total
    center = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if count == 0 else max(0.0, center - half)
    high = 1.0 if count == total else min(1.0, center + half)
    return low, high


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided exact McNemar p-value of two discordant counts, in (0, 1].

    Twice the lower tail of a fair binomial of ``gained + lost`` tosses, at most 1. Raises
    ``ValueError`` for a negative count. Source: McNemar 1947, exact (binomial) form.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained and {lost} lost: a count is negative")
    tosses = gained + lost
    term = tail = 1
    for successes in range(min(gained, lost)):
        term = term * (tosses - successes) // (successes + 1)
        tail += term
    doubled, whole = 2 * tail, 1 << tosses
    return 1.0 if doubled >= whole else doubled / whole


def paired_difference(
    gained: int, lost: int, total: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of a paired difference of two shares, both ends in [-1, 1].

    ``gained`` and ``lost`` are the discordant counts among ``total`` pairs; one is added to each
    and two to the total before the Wald interval is taken, which keeps it honest for few or no
    discordant pairs. Raises ``ValueError`` for counts that cannot be. Source: Bonett and Price
    2012, the adjusted Wald interval.
    """
    if min(gained, lost) < 0 or gained + lost > total:
        raise ValueError(f"{gained} gained and {lost} lost of {total} pairs cannot be")
    up, down = (gained + 1) / (total + 2), (lost + 1) / (total + 2)
    center = up - down
    half = _quantile(confidence) * math.sqrt((up + down - center * center) / (total + 2))
    return max(-1.0, center - half), min(1.0, center + half)


def difference(
    before: tuple[int, int], after: tuple[int, int], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of the second share minus the first, both ends in [-1, 1].

    Each is a count and its total, of separate samples. Raises ``ValueError`` as :func:`wilson`
    does. Source: Newcombe 1998, the hybrid score interval (his method 10).
    """
    (low_1, high_1), (low_2, high_2) = (wilson(*one, confidence) for one in (before, after))
    share_1, share_2 = (count / total if total else 0.5 for count, total in (before, after))
    gap = share_2 - share_1
    return (
        gap - math.hypot(share_2 - low_2, high_1 - share_1),
        gap + math.hypot(high_2 - share_2, share_1 - low_1),
    )
