"""Intervals and tests against closed forms and published values."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dentbench.stats import (
    LEAST_BATCHES,
    DesignEffect,
    difference,
    holm,
    least_batches,
    mcnemar,
    more_often_than,
    paired_design_effect,
    paired_difference,
    paired_means,
    share_design_effect,
    t_quantile,
    wilson,
)

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


# --- more tests -----------------------------------------------------------------------------------


@given(st.integers(1, 40), st.floats(0.01, 0.99), st.data())
def test_the_binomial_test_equals_a_slow_sum(total: int, share: float, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    slow = sum(
        math.comb(total, number) * share**number * (1 - share) ** (total - number)
        for number in range(count, total + 1)
    )
    assert more_often_than(count, total, share) == pytest.approx(slow, rel=1e-9)


def test_the_binomial_test_of_a_fair_coin_is_half_of_mcnemar() -> None:
    assert more_often_than(9, 10, 0.5) == pytest.approx(mcnemar(9, 1) / 2)
    assert more_often_than(0, 0, 0.5) == 1.0
    assert 0 < more_often_than(900, 1000, 0.02) < 1e-300 or more_often_than(900, 1000, 0.02) == 0
    with pytest.raises(ValueError, match="cannot be"):
        more_often_than(3, 2, 0.5)


def test_holm_known_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.7]) == (1.0, 1.0) and holm([]) == ()


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (7, 2.3646), (30, 2.0423), (78, 1.9908)],
)
def test_t_known_values(freedom: int, quantile: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(quantile, abs=5e-5)


def test_t_of_what_cannot_be() -> None:
    for bad in ((0.95, 0), (1.0, 3), (0.0, 3)):
        with pytest.raises(ValueError, match="degrees of freedom"):
            t_quantile(*bad)


# --- images that share batches --------------------------------------------------------------------


def test_batches_that_are_all_right_or_all_wrong_count_as_one_image_each() -> None:
    """The variance of B draws over that of B m: the batch size, and t for normal, B/(B-1)."""
    batches, size = 10, 32
    counts = [size, 0] * (batches // 2)
    few = (t_quantile(0.95, batches - 1) / Z) ** 2
    actual = share_design_effect(counts, [size] * batches)
    assert actual == DesignEffect(
        pytest.approx(size * batches / (batches - 1) * few),  # type: ignore[arg-type]
        batches,
    )


@given(
    st.lists(st.integers(1, 30), min_size=LEAST_BATCHES, max_size=12).flatmap(
        lambda sizes: st.tuples(
            st.just(sizes), st.tuples(*(st.integers(0, size) for size in sizes))
        )
    )
)
def test_the_design_effect_equals_a_slow_one(drawn: tuple[list[int], tuple[int, ...]]) -> None:
    sizes, counts = drawn
    total, right, batches = sum(sizes), sum(counts), len(sizes)
    share = right / total
    spread = 0.0
    for count, size in zip(counts, sizes, strict=True):
        spread += (count - share * size) ** 2
    variance = batches / (batches - 1) * spread / total**2
    simple = share * (1 - share) / total
    few = (t_quantile(0.95, batches - 1) / Z) ** 2
    expected = max(1.0, variance / simple * few) if simple > 0 else 1.0
    assert share_design_effect(counts, sizes).value == pytest.approx(expected)
    lost = [0] * len(sizes)
    assert paired_design_effect(counts, lost, sizes).value == pytest.approx(expected)


def test_few_batches_say_too_little() -> None:
    assert share_design_effect([3, 4, 5], [8, 8, 8]) == DesignEffect(None, 3)
    assert paired_design_effect([1], [0], [8]) == DesignEffect(None, 1)
    assert DesignEffect(None, 3).divisor == 1.0


def test_fewest_batches_by_trying_every_sign() -> None:
    """Of all equally likely signs of so many batches, those all one way are at most the level."""
    for level in (0.3, 0.05, 0.025, 0.01, 0.004):
        least = least_batches(level)
        for batches in (least - 1, least):
            signs = [*itertools.product((-1, 1), repeat=batches)]
            one_way = sum(all(sign > 0 for sign in item) for item in signs) / len(signs)
            assert (one_way <= level) == (batches == least)
    assert least_batches() == 6 and least_batches(0.25) == 2


def test_an_effect_widens_the_paired_test_and_never_narrows_it() -> None:
    assert mcnemar(20, 0, 2.0) == mcnemar(10, 0) > mcnemar(20, 0)
    assert mcnemar(21, 3, 2.0) == mcnemar(10, 2), "rounded against the difference"
    assert mcnemar(3, 3, 5.0) == 1.0
    with pytest.raises(ValueError, match="below 1"):
        mcnemar(3, 3, 0.5)
    low, high = paired_difference(20 / 2, 4 / 2, 200 / 2)
    plain = paired_difference(20, 4, 200)
    assert low < plain[0] < plain[1] < high


@pytest.mark.parametrize("coupled", [False, True])
def test_the_null_is_rejected_as_seldom_as_stated(coupled: bool) -> None:
    """2,000 null comparisons in 8 batches of 32, gains and losses alike; seeded."""
    generator = random.Random(5)
    times, batches, size, rejected, plain, covered = 2000, 8, 32, 0, 0, 0
    for _ in range(times):
        gained, lost = [], []
        for _ in range(batches):
            tilt = generator.choice((0.0, 1.0)) if coupled else 0.5
            changed = sum(generator.random() < 0.15 for _ in range(size))
            up = sum(generator.random() < tilt for _ in range(changed))
            gained.append(up)
            lost.append(changed - up)
        effect = paired_design_effect(gained, lost, [size] * batches).divisor
        counts = sum(gained), sum(lost)
        rejected += mcnemar(*counts, effect) < 0.05
        plain += mcnemar(*counts) < 0.05
        low, high = paired_difference(*(item / effect for item in (*counts, batches * size)))
        covered += low <= 0 <= high
    assert rejected <= 0.05 * times and covered >= 0.95 * times
    if coupled:
        assert plain > 0.2 * times, "without the effect the test would be wrong"


def test_of_whole_differences_the_interval_of_means_is_that_of_counts() -> None:
    for gained, lost, total in ((0, 0, 5), (7, 3, 50), (1, 9, 30), (20, 0, 20)):
        ones = [1.0] * gained + [-1.0] * lost + [0.0] * (total - gained - lost)
        mean, low, high, p_value = paired_means(ones)
        assert mean == pytest.approx((gained - lost) / total)
        assert (low, high) == pytest.approx(paired_difference(gained, lost, total))
        assert (p_value < 0.05) == (low > 0 or high < 0)


def test_a_difference_of_two_shares_is_at_most_one() -> None:
    with pytest.raises(ValueError, match="beyond 1"):
        paired_means([0.5, -1.5])
