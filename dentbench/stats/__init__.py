"""Intervals and tests for counts of images: closed forms, standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final

CONFIDENCE = 0.95
"""The confidence level of every interval that a report shows."""


@lru_cache
def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}; it must lie between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(count: float, total: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Wilson score interval of a share of ``count`` in ``total``, both ends in [0, 1].

    Counts divided by a design effect need not be whole. (0, 1) for a total of zero. Raises
    ``ValueError`` unless 0 <= count <= total. Source: Wilson 1927; Brown, Cai, DasGupta 2001,
    equation 4.
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


def mcnemar(gained: int, lost: int, effect: float = 1.0) -> float:
    """Return the two-sided exact McNemar p-value of two discordant counts, in (0, 1].

    Twice the lower tail of a fair binomial of ``gained + lost`` tosses, at most 1. A design
    ``effect`` above 1 divides both counts; a count that is not whole then is rounded against the
    difference. Raises ``ValueError`` for a negative count or an effect below 1. Source: McNemar
    1947, exact (binomial) form; the division: Rao and Scott 1992.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{gained} gained and {lost} lost: a count is negative")
    if effect < 1:
        raise ValueError(f"a design effect of {effect} is below 1")
    more, fewer = max(gained, lost), min(gained, lost)
    more, fewer = math.floor(more / effect), math.ceil(fewer / effect)
    tosses = more + fewer
    term = tail = 1
    for successes in range(min(more, fewer)):
        term = term * (tosses - successes) // (successes + 1)
        tail += term
    doubled, whole = 2 * tail, 1 << tosses
    return 1.0 if doubled >= whole else doubled / whole


def fisher(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the one-sided p-value of Fisher's exact test, in (0, 1].

    ``first`` and ``second``: successes and trials. It is the chance that, of as many successes in
    all, ``first`` has as many or more. Raises ``ValueError`` for impossible counts.
    """
    (right, trials), (others, other_trials) = first, second
    if not (0 <= right <= trials and 0 <= others <= other_trials):
        raise ValueError(f"{right} of {trials} and {others} of {other_trials} are no counts")
    successes = right + others
    ways = math.comb(trials + other_trials, successes)
    more = range(right, min(trials, successes) + 1)
    return sum(math.comb(trials, k) * math.comb(other_trials, successes - k) for k in more) / ways


def more_often_than(count: int, total: int, share: float) -> float:
    """Return the chance of ``count`` or more in ``total`` when each happens with ``share``.

    The one-sided p-value of the exact binomial test. Raises ``ValueError`` unless
    0 <= count <= total and 0 < share < 1.
    """
    if not 0 <= count <= total or not 0 < share < 1:
        raise ValueError(f"{count} of {total}, each with chance {share}, cannot be")
    upper = math.fsum(
        math.exp(
            math.lgamma(total + 1)
            - math.lgamma(number + 1)
            - math.lgamma(total - number + 1)
            + number * math.log(share)
            + (total - number) * math.log1p(-share)
        )
        for number in range(count, total + 1)
    )
    return min(upper, 1.0)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted for being looked at together, in their order, each at most 1.

    Of m null hypotheses, the chance that any adjusted value falls below a level is at most that
    level, however they depend on each other. Source: Holm 1979, the step-down procedure.
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = least
    return tuple(adjusted)


def paired_difference(
    gained: float, lost: float, total: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of a paired difference of two shares, both ends in [-1, 1].

    ``gained`` and ``lost`` are the discordant counts among ``total`` pairs (all divided by the
    design effect where there is one, and then not whole); one is added to each
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


def paired_means(
    differences: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float, float, float]:
    """Return the mean of paired differences, its interval's ends and the two-sided p-value.

    Each difference, of one image, is in [-1, 1]: of two shares of draws, where one of the two sides
    answers by chance. A difference of 1 and one of -1 are added before the normal interval and test
    of the mean are taken, which keeps them honest for few images or none that differ; for whole
    differences the interval is that of :func:`paired_difference`. Raises ``ValueError`` for a
    difference beyond 1. Source: Bonett and Price 2012, extended from counts to means.
    """
    if any(abs(difference) > 1 for difference in differences):
        raise ValueError("a difference of two shares is beyond 1")
    total = len(differences) + 2
    center = math.fsum(differences) / total
    square = (math.fsum(difference * difference for difference in differences) + 2) / total
    error = math.sqrt(max(square - center * center, 0.0) / total)
    half = _quantile(confidence) * error
    p_value = 2 * NormalDist().cdf(-abs(center) / error) if error else 1.0
    mean = math.fsum(differences) / max(len(differences), 1)
    return mean, max(-1.0, center - half), min(1.0, center + half), p_value


def difference(
    before: tuple[int, int], after: tuple[int, int], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of the second share minus the first, both ends in [-1, 1].

    Each is a count and its total, of separate samples. Raises ``ValueError`` as :func:`wilson`
    does. Source: Newcombe 1998, the hybrid score interval (his method 10).
    """
    (low_1, high_1), (low_2, high_2) = (wilson(*counts, confidence) for counts in (before, after))
    share_1, share_2 = (count / total if total else 0.5 for count, total in (before, after))
    gap = share_2 - share_1
    return (
        gap - math.hypot(share_2 - low_2, high_1 - share_1),
        gap + math.hypot(high_2 - share_2, share_1 - low_1),
    )


def percent_text(count: int, total: int) -> str:
    """Return a share in percent to a tenth, exact halves up: "6.3%" of 4 in 64; of none "0.0%"."""
    tenths = (2000 * count + total) // (2 * total) if total else 0
    return f"{tenths / 10:.1f}%"


def p_text(p_value: float) -> str:
    """Return a p-value with two digits, or that it is below 0.001."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


# --- images that share batches --------------------------------------------------------------------

LEAST_BATCHES: Final = 4
"""The fewest batches that a design effect is estimated from."""


def least_batches(level: float = (1 - CONFIDENCE) / 2) -> int:
    """Return the fewest batches by which a one-sided level, in (0, 1), can be met.

    Of batches that each go either way by equal luck, all go one way with a chance of 2^-batches,
    however many images they have; the variance between them, which widens intervals, is zero then.
    Source: Fisher 1935, the exact test of flipped signs.
    """
    return math.ceil(-math.log2(level))


@dataclass(frozen=True)
class DesignEffect:
    """How many times a count varies as much as that of independent images.

    ``value``: at least 1; None where fewer than :data:`LEAST_BATCHES` batches say too little.
    """

    value: float | None
    batches: int

    @property
    def divisor(self) -> float:
        """The divisor of counts: the effect, or 1 where it is not known."""
        return 1.0 if self.value is None else self.value


def share_design_effect(counts: Sequence[int], sizes: Sequence[int]) -> DesignEffect:
    """Return the design effect of a share, from the count right and the size of every batch.

    The variance of the ratio of both sums, from the batches' residuals, over the binomial variance.
    Source: Rao and Scott 1992 (Biometrics 48, 577-585), section 2, after Kish 1965; t in place of
    the normal quantile, squared, for few batches (Cameron and Miller 2015). Never below 1.
    """
    total = sum(sizes)
    share = sum(counts) / total if total else 0.0
    return _design_effect(counts, sizes, share * (1 - share))


def paired_design_effect(
    gained: Sequence[int], lost: Sequence[int], sizes: Sequence[int]
) -> DesignEffect:
    """Return the design effect of a paired difference, from every batch's discordant counts.

    As :func:`share_design_effect`, of the totals ``gained - lost``.
    """
    total = sum(sizes)
    gap = (sum(gained) - sum(lost)) / total if total else 0.0
    rate = (sum(gained) + sum(lost)) / total if total else 0.0
    totals = [up - down for up, down in zip(gained, lost, strict=True)]
    return _design_effect(totals, sizes, rate - gap * gap)


def batch_effect(gained: Sequence[int], lost: Sequence[int], sizes: Sequence[int]) -> float:
    """Return the design effect of a paired difference, not yet widened for few batches, >= 1.

    From two batches on.
    """
    total = sum(sizes)
    gap, rate = (sum(gained) - sum(lost)) / total, (sum(gained) + sum(lost)) / total
    totals = [up - down for up, down in zip(gained, lost, strict=True)]
    return max(1.0, _variance_ratio(totals, sizes, rate - gap * gap))


def _design_effect(totals: Sequence[int], sizes: Sequence[int], independent: float) -> DesignEffect:
    """Return the effect of batch totals; ``independent``: one image's variance without batches."""
    batches = len(sizes)
    if batches < LEAST_BATCHES:
        return DesignEffect(None, batches)
    ratio = _variance_ratio(totals, sizes, independent)
    few = t_quantile(CONFIDENCE, batches - 1) / _quantile(CONFIDENCE)
    return DesignEffect(max(1.0, ratio * few**2), batches)


def _variance_ratio(totals: Sequence[int], sizes: Sequence[int], independent: float) -> float:
    """Return the variance of the batches' totals in units of that without batches."""
    batches, total = len(sizes), sum(sizes)
    if independent <= 0:  # all images alike: there is nothing to widen
        return 0.0
    mean = sum(totals) / total
    residuals = math.fsum(
        (rights - mean * size) ** 2 for rights, size in zip(totals, sizes, strict=True)
    )
    return batches / (batches - 1) * residuals / (total * independent)


@lru_cache
def t_quantile(confidence: float, freedom: int) -> float:
    """Return the t below which |T| lies with this confidence, with so many degrees of freedom.

    By bisection of the closed form of integer degrees. Raises ``ValueError`` unless ``freedom``
    >= 1 and 0 < confidence < 1. Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"t with {freedom} degrees of freedom at confidence {confidence}")
    low, high = 0.0, math.pi / 2  # of the angle arctan(t / sqrt(freedom))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """Return the chance that |T| < tan(angle) sqrt(freedom)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= power / (power + 1) * square
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
