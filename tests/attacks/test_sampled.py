"""Answers kept during an attack, and the same questions asked again after it."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dentbench.attacks.sampled import KEPT, Sampled


def numbered(number: int, size: int = 3) -> Tensor:
    return torch.full((size, 1, 2, 2), float(number))


def honest(x: Tensor) -> Tensor:
    return torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], dim=1) + 1


def judge(defense: object, x: Tensor) -> Tensor:
    assert callable(defense)
    logits: Tensor = defense(x)
    return logits


def test_an_honest_defense_answers_alike() -> None:
    sampled = Sampled(honest, seed=0)
    for number in range(5):
        answer = sampled(numbered(number))
        answer.fill_(-torch.inf)  # as Square does
    assert sampled.asked_again(judge) == (3 * KEPT, 0)


@pytest.mark.parametrize("lie", [0.1, torch.nan])
def test_each_image_with_another_answer_counts(lie: float) -> None:
    told = [True]

    def lying(x: Tensor) -> Tensor:
        logits = honest(x)
        if told[0]:
            logits[0, 0] += lie
        return logits

    sampled = Sampled(lying, seed=0)
    sampled(numbered(1))
    told[0] = False
    assert sampled.asked_again(judge) == (3, 1)


def test_rounding_and_no_answer_twice_are_no_difference() -> None:
    calls = [0]

    def rounding(x: Tensor) -> Tensor:
        calls[0] += 1
        logits = honest(x)
        logits[1:] *= 1 + 1e-6 * calls[0]
        logits[0] = torch.nan
        return logits

    sampled = Sampled(rounding, seed=0)
    sampled(numbered(1))
    assert sampled.asked_again(judge) == (3, 0)


@dataclass(frozen=True)
class Kept:
    factor: Tensor
    losses: tuple[Tensor, ...] = ()


class InParts:
    """A defense whose ``predict`` lies while ``told``; its adaptation has a graph."""

    def __init__(self) -> None:
        self.told = False
        self.weight = torch.tensor(2.0, requires_grad=True)

    def unroll(self, x: Tensor) -> Kept:
        return Kept(factor=self.weight * x.mean(), losses=(self.weight * 1,))

    def predict(self, x: Tensor, adaptation: Kept) -> Tensor:
        return honest(x) * adaptation.factor + self.told

    def __call__(self, x: Tensor) -> Tensor:
        return self.predict(x, self.unroll(x))


@pytest.mark.parametrize("lies", [False, True])
def test_answers_under_a_kept_adaptation_are_asked_for_again(lies: bool) -> None:
    defense = InParts()
    sampled = Sampled(defense, seed=0)
    defense.told = lies
    for number in range(4):
        adaptation = sampled.unroll(numbered(number + 1))
        assert sampled.predict(numbered(number), adaptation).requires_grad
    defense.told = False
    assert sampled.asked_again(judge) == (3 * KEPT, 3 * KEPT * lies)


def test_a_kept_adaptation_keeps_no_graph() -> None:
    defense = InParts()
    sampled = Sampled(defense, seed=0)
    x = numbered(1).requires_grad_()
    adaptation = sampled.unroll(x)
    alive = weakref.ref(adaptation.factor)
    sampled.predict(x, adaptation)
    del adaptation
    assert alive() is None


def test_every_question_is_as_likely_to_be_kept() -> None:
    times: Counter[int] = Counter()
    for seed in range(600):
        sampled, seen = Sampled(honest, seed), Counter[int]()
        for number in range(6):
            sampled(numbered(number, 1))
        sampled.asked_again(
            lambda ask, x, seen=seen: (seen.update([int(x[0, 0, 0, 0])]), ask(x))[1]
        )
        assert sum(seen.values()) == KEPT and len(seen) == KEPT
        times += seen
    # 600 draws of 2 among 6: 200 each, with a standard deviation of 12.
    assert all(150 < times[number] < 250 for number in range(6)), times
