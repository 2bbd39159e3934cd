"""What a defense declares to be near to it is attacked in its place, beside the static model."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench.attacks.base import margins
from dentbench.spec.evaluation import AttackSpec
from tests.attacks.contexts import Linear, context_of, robust_under, spec_of
from tests.attacks.toys import labels_of, tiny_images

COUNT, EPS, LEVELS = 24, Fraction(3, 100), 512


class Away(Linear):
    """The static model: it says nothing of the defense, whose weights are others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.weight.roll(7, -1) * torch.where(torch.rand(3, 5, 5) < 0.5, -1.0, 1.0)


class Rounded(nn.Module):
    """A linear model on rounded pixels, so without a gradient; its surrogate is the plain one."""

    separable = True

    def __init__(self, network: object = None) -> None:
        super().__init__()
        self.inner = Linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x * LEVELS).round() / LEVELS)


class Declaring(Rounded):
    def surrogate(self, x: Tensor) -> Tensor:
        return self.inner(x)


def task(**more: Any) -> Any:
    torch.manual_seed(0)
    x = 0.3 + 0.4 * tiny_images(COUNT)
    spec = spec_of(COUNT, eps=EPS, cascade=False, iterations=20)
    static = Away()
    return context_of(Rounded(), static, x, labels_of(Linear(), x), spec, **more)


@pytest.mark.parametrize("stage", ["surrogate", "bpda", "transfer"])
def test_a_declared_surrogate_leads_where_the_static_model_does_not(stage: str) -> None:
    points = {"static_points": task().images} if stage == "transfer" else {}
    blind, led = task(**points), task(**points, surrogate=Linear())
    score = margins(Linear()(led.images), led.labels).abs()
    reach = float(EPS) * Linear().weight.abs().sum()
    sure = int((score > reach * 1.02 + 0.1).sum())  # rounding aside
    few = int((score > reach * 0.98 - 0.1).sum())
    assert sure <= robust_under(stage, led) <= few < COUNT - 4
    assert robust_under(stage, blind) > few + 2


def test_an_evaluation_asks_the_defense_for_it() -> None:
    torch.manual_seed(0)
    static = Away()
    x = 0.3 + 0.4 * tiny_images(COUNT)
    found = {}
    for kind in (Rounded, Declaring):
        _, record = dentbench.evaluate(
            static,
            x,
            labels_of(Linear(), x),
            defense=kind,
            attack=AttackSpec(name="quick", eps=EPS, iterations=10),
            protocols=["transfer"],
        )
        found[kind] = record.protocol_counts["transfer"]
    assert found[Declaring] < found[Rounded] - 4
