"""The independent long attack, against a linear model's closed form."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.benchmarks.long_attack.ascent import Restart, State, Target, ascend
from tests.panel.subjects import EPS, Linear, planted

pytestmark = pytest.mark.whole_checks


class Linearly:
    """Two parts around a linear model, which adapt nothing."""

    def __init__(self, network: Linear) -> None:
        self.network = network

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def unroll(self, x: Tensor, last: int) -> Tensor:
        return torch.zeros(())

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        return self(x)


def target(*, separable: bool) -> Target:
    network, images, labels = planted()
    return Target(
        dent=Linearly(network),
        network=network,
        images=images,
        labels=labels,
        right=network(images).argmax(1) == labels,
        stored=images[None],
        eps=float(EPS),
        separable=separable,
        steps=1,
    )


def begun(batch: Target, restart: Restart) -> State:
    points, none = restart.start(batch, batch.starts(), seed=0), torch.zeros_like(batch.right)
    return State(0, points, torch.zeros_like(points), none, 0.0, int(batch.natural.sum()))


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("first", [0, 4, 8])
def test_it_breaks_what_can_be_broken_and_nothing_else(first: int, separable: bool) -> None:
    """One restart may end at a class that is not the nearest; a few in turn find them all."""
    batch = target(separable=separable)
    network, images, labels = planted()
    robust = network.robust(images, labels, float(EPS))
    right = batch.right.clone()
    for number in range(first, first + 4):
        restart = Restart(number=number)
        state = begun(batch, restart)
        ascend(batch, restart, state, 60, time.monotonic() + 60)
        assert not (state.broken & robust).any()
        # All images of a coupled batch together: no batch breaks more than can be broken.
        natural = int(batch.natural.sum())
        assert batch.together() == natural == int(batch.right.sum())
        assert state.together == natural if separable else robust.sum() <= state.together < natural
        right &= ~state.broken
    assert torch.equal(right, robust)


def test_a_stopped_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    batch, restart = target(separable=False), Restart(number=1)
    whole, parted = begun(batch, restart), begun(batch, restart)
    ascend(batch, restart, whole, 12, time.monotonic() + 60)

    with pytest.MonkeyPatch.context() as patch:
        ticks = iter(range(10_000))
        patch.setattr(time, "monotonic", lambda: next(ticks))
        ascend(batch, restart, parted, 12, 21)
    assert 0 < parted.step < 12
    parted.save(tmp_path / "state.npz")
    again = State.load(tmp_path / "state.npz", torch.device("cpu"))
    ascend(batch, restart, again, 12, time.monotonic() + 60)
    assert again.step == whole.step == 12
    assert torch.equal(again.points, whole.points) and torch.equal(again.broken, whole.broken)
