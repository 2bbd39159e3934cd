"""Boundaries of runs that may stop at any look, against simulation, quadrature and closed forms."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import numpy as np
import pytest

from dentbench.stats import least_batches, mcnemar, paired_design_effect, t_quantile
from dentbench.stats.sequential import (
    ERROR,
    MOST_LOOKS,
    few_batches,
    levels,
    look_batches,
    repeated_interval,
    score,
    spent,
    will_lose,
)
from tests.benchmarks import stopping


@pytest.mark.parametrize("sizes", [[128] * 8, [20] * 50, [128] * 7 + [104], [1] * 100, [64] * 3])
def test_a_standard_brownian_path_crosses_with_the_error_that_is_allowed(sizes: list[int]) -> None:
    generator = np.random.default_rng(20)
    actual = levels(sizes)
    steps = np.sqrt(np.array(sizes)) * generator.standard_normal((40_000, len(sizes)))
    sums = np.cumsum(steps, 1)[:, [look - 1 for look in actual]]
    images = np.cumsum(sizes)[[look - 1 for look in actual]]
    z = np.array([-NormalDist().inv_cdf(level) for level in actual.values()])
    crossed = np.mean((sums / np.sqrt(images) > z).any(1))
    assert crossed == pytest.approx(ERROR, abs=0.0025)
    halfway = np.flatnonzero(images <= images[-1] / 2)
    if len(halfway):
        early = np.mean((sums / np.sqrt(images) > z)[:, halfway].any(1))
        assert early == pytest.approx(spent(images[halfway[-1]] / images[-1]), abs=0.002)


def test_two_looks_agree_with_quadrature() -> None:
    first, second = levels([50, 50]).values()
    assert first == pytest.approx(ERROR / 4, rel=1e-3)  # power 2: a quarter by half of the images
    z_1, z_2 = (-NormalDist().inv_cdf(item) for item in (first, second))
    grid = np.linspace(-8, z_1, 20_001)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    beyond = [NormalDist().cdf(-(z_2 * math.sqrt(2) - at)) for at in grid]
    later = np.sum(density * beyond) * (grid[1] - grid[0])
    assert first + later == pytest.approx(ERROR, rel=2e-3)


def test_one_look_is_the_fixed_size_and_more_looks_are_bounded() -> None:
    assert levels([256]) == {1: pytest.approx(ERROR, rel=1e-3)}
    assert look_batches(MOST_LOOKS) == tuple(range(1, MOST_LOOKS + 1))
    assert look_batches(1000)[-1] == 1000 and len(look_batches(1000)) <= MOST_LOOKS
    increasing = [*levels([10] * 30).values()]
    assert increasing == sorted(increasing) and increasing[-1] < ERROR
    with pytest.raises(ValueError, match="no look"):
        levels([])


@pytest.mark.parametrize(("gained", "lost", "total"), [(12, 3, 100), (0, 5, 40), (7, 7, 20)])
def test_score_is_mcnemar_at_zero_and_changes_sides(gained: int, lost: int, total: int) -> None:
    expected = (gained - lost) / math.sqrt(gained + lost)
    assert float(score(gained, lost, total, 0.0)) == pytest.approx(expected)
    other = -float(score(lost, gained, total, -0.05))
    assert float(score(gained, lost, total, 0.05)) == pytest.approx(other)


@pytest.mark.parametrize("difference", [0.02, 0.05, 0.3])
@pytest.mark.parametrize(("gained", "lost", "total"), [(12, 3, 100), (0, 0, 64), (3, 9, 50)])
def test_score_uses_the_most_likely_shares_of_its_difference(
    gained: int, lost: int, total: int, difference: float
) -> None:
    """The variance is of the likelihood's maximum under the difference, found by trying all."""
    least = np.linspace(1e-9, (1 - difference) / 2 - 1e-9, 200_001)
    likelihood = gained * np.log(least + difference) + lost * np.log(least)
    likelihood += (total - gained - lost) * np.log(1 - 2 * least - difference)
    best = least[likelihood.argmax()]
    variance = total * (2 * best + difference - difference**2)
    expected = (gained - lost - total * difference) / math.sqrt(variance)
    assert float(score(gained, lost, total, difference)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("gained", "lost"), [(2, 12), (0, 14), (9, 9)])
def test_interval_ends_solve_the_score_equation(gained: int, lost: int) -> None:
    low, high = repeated_interval(gained, lost, 50, 0.025)
    z = -NormalDist().inv_cdf(0.025)
    assert low < (gained - lost) / 50 < high
    assert float(score(gained, lost, 50, low)) == pytest.approx(z, abs=1e-6)
    assert float(score(gained, lost, 50, high)) == pytest.approx(-z, abs=1e-6)


def test_interval_of_nothing_narrows_with_the_level_and_refuses_what_cannot_be() -> None:
    assert repeated_interval(0, 0, 0, 0.01) == (-1.0, 1.0)
    early, late = (repeated_interval(5, 5, 100, level) for level in (0.0005, 0.02))
    assert early[0] < late[0] < 0 < late[1] < early[1]
    assert repeated_interval(100, 0, 100, 0.02)[1] == pytest.approx(1.0, abs=1e-6)
    for gained, lost, total in ((-1, 0, 10), (6, 6, 10)):
        with pytest.raises(ValueError, match="cannot be"):
            repeated_interval(gained, lost, total, 0.02)


def test_few_batches_widen_by_student() -> None:
    z, level = -NormalDist().inv_cdf(0.01), 0.01
    assert few_batches(level, 8) == pytest.approx((t_quantile(0.98, 7) / z) ** 2)
    assert few_batches(level, 6) == math.inf  # 2^-6 is more than 0.01
    assert few_batches(level, 2000) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("batches", [6, 7, 8, 16, 64, 79, 200])
def test_six_batches_can_decide_whether_or_not_a_run_may_stop(batches: int) -> None:
    """The last look meets its level, and at the first that does luck is still seldom enough."""
    actual = levels([64] * batches)
    assert least_batches(actual[batches]) <= batches
    first = next(look for look, level in actual.items() if least_batches(level) <= look)
    assert 2.0**-first <= spent(first / batches) < ERROR + 1e-12
    assert least_batches(levels([64] * 5)[5]) > 5


def test_a_run_goes_on_while_a_loss_is_near() -> None:
    looks = dict.fromkeys((100, 200, 300), 0.01)
    assert will_lose(2, 12, 100, 1.0, looks)  # 24 to 4 by 200 images
    assert not will_lose(2, 12, 100, 4.0, looks)
    assert not will_lose(5, 8, 100, 1.0, looks)
    assert not will_lose(2, 12, 300, 1.0, looks)  # there are no more images


# --- the simulation, in small ---------------------------------------------------------------------


@pytest.mark.parametrize("gain", [0, 5])
@pytest.mark.parametrize("world", stopping.WORLDS)
def test_verdicts_are_as_seldom_wrong_as_they_say(world: str, gain: int) -> None:
    """Of runs that stop and of a fixed size; four coupled batches decided 6% wrongly each way."""
    slack = 3.2 * math.sqrt(0.025 * 0.975 / 1000)
    for said in (stopping.cell(world, gain, runs=1000)[rule] for rule in stopping.RULES):
        assert said["false holds"] <= 0.025 + slack
        assert said["false weaker than static"] <= 0.025 + slack
        assert said["false no gain"] <= 0.05


def test_what_a_fixed_rule_looked_at_often_would_do_is_what_the_simulation_finds() -> None:
    """The simulation can fail: looks at the fixed-size level are wrong far too often."""
    world = stopping.WORLDS["1,000 images in 50 batches, each on its own"]
    gained, lost = stopping.draw(world, 0.0, 2000, np.random.default_rng(1))
    sums = np.cumsum(gained - lost, 1) / np.sqrt(np.maximum(np.cumsum(gained + lost, 1), 1))
    assert np.mean((sums > 1.96).any(1)) > 0.08


def test_the_simulation_computes_what_the_runner_does() -> None:
    generator = random.Random(3)
    for _ in range(20):
        gained = [generator.randrange(9) for _ in range(6)]
        lost = [generator.randrange(9) for _ in range(6)]
        known = stopping.effects(np.array([gained]), np.array([lost]), 40)[0]
        few = (t_quantile(0.95, 5) / -NormalDist().inv_cdf(0.025)) ** 2
        slow = paired_design_effect(gained, lost, [40] * 6)
        assert slow.value is not None
        assert max(known * few, 1.0) == pytest.approx(max(slow.value, few), rel=1e-9)
        p = stopping.exact(np.array([sum(gained)]), np.array([sum(lost)]), known)[0]
        assert p == mcnemar(sum(gained), sum(lost), float(known))
