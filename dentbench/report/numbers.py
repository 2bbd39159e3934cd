"""The numbers of a report: define each and the single way in which it is written.

``str(number)`` is for people, ``number.plain()`` for a CSV cell, ``number.data()`` for JSON.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

from dentbench.stats import mcnemar, p_text, paired_difference, percent_text, wilson
from dentbench.stats.sequential import repeated_interval

LEVEL: Final = 0.05
"""The two-sided p-value below which a difference counts."""


@dataclass(frozen=True)
class Share:
    """A count of images among ``total``, written as ``59.4% (76/128)``.

    ``effect``: the design effect, at least 1, by which its variance exceeds that of independent
    images.
    """

    count: int
    total: int
    effect: float = 1.0

    @property
    def percent(self) -> float:
        """The share in percent, in [0, 100]; 0 for no images."""
        return 100 * self.count / self.total if self.total else 0.0

    def __str__(self) -> str:
        if not self.total:
            return "no images"
        return f"{percent_text(self.count, self.total)} ({self.count}/{self.total})"

    def plain(self) -> str:
        """Return the percentage as digits."""
        return f"{self.percent:.6g}" if self.total else ""

    def data(self) -> dict[str, Any]:
        """Return percentage, count, total and the ends of the interval, in percent."""
        return {"percent": self.percent, **_counts(self), **self.interval.data()}

    @property
    def interval(self) -> Interval:
        """The 95% Wilson interval, of counts divided by the design effect."""
        low, high = wilson(self.count / self.effect, self.total / self.effect)
        return Interval(100 * low, 100 * high)


@dataclass(frozen=True)
class Interval:
    """A range of percentages, written as ``50.8-67.6``."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.1f}-{self.high:.1f}"

    def plain(self) -> str:
        """Return the range as it is written."""
        return str(self)

    def data(self) -> dict[str, Any]:
        """Return both ends, in percent."""
        return dict(vars(self))


@dataclass(frozen=True)
class Percent:
    """A percentage without counts, such as a published number, with its decimals."""

    value: float
    decimals: int = 1

    def __str__(self) -> str:
        return f"{self.plain()}%"

    def plain(self) -> str:
        """Return the percentage as digits."""
        return f"{self.value:.{self.decimals}f}"

    def data(self) -> dict[str, Any]:
        """Return the percentage."""
        return {"percent": self.value}


@dataclass(frozen=True)
class Ratio:
    """A ratio, written as ``25.9x``."""

    value: float

    def __str__(self) -> str:
        return f"{self.plain()}x"

    def plain(self) -> str:
        """Return the ratio as digits."""
        return f"{self.value:.1f}"

    def data(self) -> dict[str, Any]:
        """Return the ratio."""
        return {"times": self.value}


@dataclass(frozen=True)
class Points:
    """A difference of two percentages, written with its sign as ``+1.6`` or ``-0.2``."""

    value: float
    decimals: int = 1

    def __str__(self) -> str:
        return signed(self.value, self.decimals)

    def plain(self) -> str:
        """Return the difference as digits, without a plus sign."""
        return signed(self.value, self.decimals).removeprefix("+")

    def data(self) -> dict[str, Any]:
        """Return the difference in percentage points."""
        return {"points": self.value}


@dataclass(frozen=True)
class Paired:
    """Images gained and lost against the static model, written as ``+1.6 (+3 -1, p = 0.62)``.

    ``effect``: the design effect, at least 1, of images that share batches; infinite where there
    are too few of them for a verdict: nothing is excluded then, and there is no test.
    """

    gained: int
    lost: int
    total: int
    effect: float = 1.0

    @property
    def points(self) -> float:
        """The difference in percentage points."""
        return 100 * (self.gained - self.lost) / self.total if self.total else 0.0

    @property
    def p_value(self) -> float:
        """The two-sided exact McNemar p-value, of counts divided by the design effect."""
        return mcnemar(self.gained, self.lost, self.effect) if self.tested else 1.0

    @property
    def tested(self) -> bool:
        """Whether there are batches enough for a test."""
        return not math.isinf(self.effect)

    @property
    def significant(self) -> bool:
        """Whether it differs from 0."""
        return self.p_value < LEVEL

    @property
    def interval(self) -> Interval:
        """The 95% interval of the difference, in points (Bonett and Price 2012)."""
        if not self.tested:
            return Interval(-100.0, 100.0)
        counts = (self.gained, self.lost, self.total)
        low, high = paired_difference(*(count / self.effect for count in counts))
        return Interval(100 * low, 100 * high)

    def __str__(self) -> str:
        counts = f"+{self.gained} -{self.lost}"
        return f"{signed(self.points)} ({counts}, {self.test_text})"

    @property
    def test_text(self) -> str:
        """The p-value, or that there is none."""
        return p_text(self.p_value) if self.tested else "no test"

    def plain(self) -> str:
        """Return the difference in points as digits, without a plus sign."""
        return signed(self.points).removeprefix("+")

    def data(self) -> dict[str, Any]:
        """Return the difference in points, its counts and its p-value."""
        return {"points": self.points, **_counts(self), "p": self.p_value}


@dataclass(frozen=True)
class RepeatedPaired(Paired):
    """The same at a look of a run that may stop at any: it allows for all looks.

    ``level``: the one-sided level of the look; McNemar's p-value is compared with twice of it.
    """

    level: float = LEVEL / 2

    @property
    def significant(self) -> bool:
        """Whether it differs from 0, by the exact test and by the interval."""
        interval = self.interval
        return self.p_value < 2 * self.level and not interval.low <= 0 <= interval.high

    @property
    def interval(self) -> Interval:
        """The repeated interval of the difference, in points (Tango 1998)."""
        counts = (self.gained / self.effect, self.lost / self.effect, self.total / self.effect)
        low, high = repeated_interval(*counts, self.level)
        return Interval(100 * low, 100 * high)


@dataclass(frozen=True)
class PairedMeans(Paired):
    """The same of a random defense: expected images, and the test of the mean difference.

    ``mean``, ``low`` and ``high``: of the difference of the shares right, in [-1, 1]; ``p``;
    ``level``: one-sided, that of a look where the run may stop at any.
    """

    mean: float = 0.0
    low: float = -1.0
    high: float = 1.0
    p: float = 1.0
    level: float = LEVEL / 2

    @property
    def significant(self) -> bool:
        """Whether it differs from 0."""
        return self.p_value < 2 * self.level

    @property
    def points(self) -> float:
        """The difference in percentage points."""
        return 100 * self.mean

    @property
    def p_value(self) -> float:
        """The two-sided p-value of the mean difference, of a deviate that allows for the effect."""
        if not self.tested:
            return 1.0
        tail = max(self.p / 2, sys.float_info.min)  # 0 where it is too small for a float
        return 2 * NormalDist().cdf(NormalDist().inv_cdf(tail) / math.sqrt(self.effect))

    @property
    def interval(self) -> Interval:
        """The 95% interval of the mean difference, in points, widened by the design effect."""
        wider = math.sqrt(self.effect)
        ends = (self.mean + wider * (end - self.mean) for end in (self.low, self.high))
        low, high = (-1.0, 1.0) if not self.tested else ends
        return Interval(100 * max(low, -1.0), 100 * min(high, 1.0))


def _counts(number: Share | Paired) -> dict[str, Any]:
    """Return the fields of a number, the design effect only where it was measured.

    It is None where there are too few batches for any.
    """
    fields = {name: value for name, value in vars(number).items() if (name, value) != ("effect", 1)}
    if math.isinf(number.effect):
        fields["effect"] = None
    return fields


Number = Share | Interval | Percent | Ratio | Points | Paired
"""Any of the numbers of a report."""


def percent(count: int, total: int) -> str:
    """Return a share as percent with its count: ``59.4% (76/128)``."""
    return str(Share(count, total))


def signed(value: float, decimals: int = 1) -> str:
    """Return a number with its sign; a number that rounds to zero has none."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text
