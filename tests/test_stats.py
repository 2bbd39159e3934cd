"""Intervals and tests against closed forms and published values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dentbench.stats import difference, mcnemar, paired_difference, wilson

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),  # Brown, Cai, DasGupta's standard example
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_known_values(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_score_equation(pair: tuple[int, int]) -> None:
    count, total = pair
    low, high = wilson(count, total)
    assert 0 <= low <= count / total <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            gap = abs(count / total - end)
            assert gap == pytest.approx(Z * math.sqrt(end * (1 - end) / total), rel=1e-6, abs=1e-9)


def test_wilson_of_nothing_and_other_levels() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(50, 100, 0.99)
    assert low < wilson(50, 100)[0] and high > wilson(50, 100)[1]
    for bad in ((-1, 5), (6, 5), (1, 0)):
        with pytest.raises(ValueError, match="is not a share"):
            wilson(*bad)
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson(1, 2, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 5, 2 / 32),
        (1, 9, 22 / 1024),
        (9, 1, 22 / 1024),
        (10, 4, 2 * 1471 / 2**14),
        (6, 4, 2 * 386 / 1024),
    ],
)
def test_mcnemar_closed_forms(gained: int, lost: int, p_value: float) -> None:
    assert mcnemar(gained, lost) == p_value


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_tail(gained: int, lost: int) -> None:
    tosses = gained + lost
    tail = sum(math.comb(tosses, k) for k in range(min(gained, lost) + 1))
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, 2 * tail / 2**tosses), rel=1e-12)


def test_mcnemar_of_large_counts() -> None:
    assert 0 <= mcnemar(10_000, 100) < 1e-300
    assert mcnemar(5_000, 5_100) == pytest.approx(0.3245, abs=1e-3)
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


def test_paired_difference() -> None:
    assert paired_difference(5, 5, 100) == pytest.approx(
        (-(half := Z * math.sqrt(12 / 102 / 102)), half)
    )
    low, high = paired_difference(0, 0, 512)
    assert low == -high and 0 < high < 0.02
    assert paired_difference(512, 0, 512)[1] <= 1
    up, down = paired_difference(30, 4, 200), paired_difference(4, 30, 200)
    assert up == pytest.approx((-down[1], -down[0]))
    for bad in ((-1, 0, 5), (3, 3, 5)):
        with pytest.raises(ValueError, match="cannot be"):
            paired_difference(*bad)


@pytest.mark.parametrize(
    ("after", "before", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_difference_against_newcombe(
    after: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    """Table II of Newcombe 1998 (Statistics in Medicine 17), method 10, all its examples."""
    assert difference(before, after) == pytest.approx((low, high), abs=5e-5)
