"""Relative time: exact on a fake clock, alternating, robust to a disturbance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dentbench.evaluation.measurements import relative_time
from dentbench.evaluation.measurements.relative_time import time_ratio

X = torch.zeros(2, 1, 4, 4)


class Clock:
    """Time that passes only when a pass says so; remembers who ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now

    def takes(self, name: str, seconds: list[float]) -> relative_time.Forward:
        """Return a pass that takes so many seconds, the last of them for good."""
        left = list(seconds)

        def forward(x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            self.ran.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return x

        return forward


def test_the_median_of_alternating_pairs_after_a_warm_up() -> None:
    clock = Clock()
    static = clock.takes("static", [50.0, 0.1])  # the first call is slow, and is not counted
    defended = clock.takes("dent", [90.0, 0.7, 0.7, 7.0, 0.7])  # one pass is disturbed
    assert time_ratio(static, defended, X, clock) == pytest.approx(7.0)
    assert clock.ran == ["static", "dent"] * (1 + relative_time.PAIRS)


def test_slow_passes_are_timed_fewer_times() -> None:
    clock = Clock()
    static, defended = clock.takes("static", [10.0]), clock.takes("dent", [25.0])
    assert time_ratio(static, defended, X, clock) == pytest.approx(2.5)
    assert clock.ran.count("dent") == 1 + relative_time.ENOUGH_PAIRS


def test_a_clock_that_stands_still_divides_by_nothing() -> None:
    clock = Clock()
    assert time_ratio(clock.takes("static", [0.0]), clock.takes("dent", [0.0]), X, clock) == 0


def test_more_work_takes_longer() -> None:
    network = torch.nn.Conv2d(1, 16, 3)
    x = torch.zeros(16, 1, 48, 48)

    def often(images: Tensor) -> Tensor:
        return torch.stack([network(images) for _ in range(10)])

    assert time_ratio(network, often, x) > 2
