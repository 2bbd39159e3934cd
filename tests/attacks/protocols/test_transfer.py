"""A declared surrogate is attacked in the defense's place, beside the static model."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench.attacks.base import judge, margins
from dentbench.spec.evaluation import AttackSpec
from tests.attacks.contexts import Linear, context_of, robust_under, run, spec_of
from tests.attacks.toys import labels_of, tiny_images

COUNT, EPS, LEVELS = 24, Fraction(3, 100), 512


class Away(Linear):
    """The static model: it says nothing of the defense, whose weights are others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = self.weight.roll(7, -1) * torch.where(torch.rand(3, 5, 5) < 0.5, -1.0, 1.0)


class Rounded(nn.Module):
    """A linear model on rounded pixels, so without a gradient; its surrogate is the plain model."""

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


class Cautious(Linear):
    """The linear model, but that class 0 has an advantage: a point barely wrong is right again."""

    advantage = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tensor([self.advantage, 0.0])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_points_of_the_largest_margin_do_what_the_first_ones_do_not(norm: str) -> None:
    """The largest margin of a linear model is its score plus eps times the dual norm of w."""
    static, eps = Linear(), EPS if norm == "Linf" else Fraction(1, 4)
    torch.manual_seed(0)
    x = 0.3 + 0.4 * tiny_images(4 * COUNT)
    x = x[static(x)[:, 0] > 0][:COUNT]
    labels = torch.zeros(len(x), dtype=torch.long)
    spec = spec_of(len(x), norm=norm, eps=eps, attack="apgd-ce", iterations=20)
    reach = float(eps) * float(static.weight.norm(p=1 if norm == "Linf" else 2))
    way = static.weight.sign() if norm == "Linf" else static.weight / static.weight.norm()
    # As a minimal attack leaves them: barely on the other side, where that is within reach.
    part = ((static(x)[:, 0] + 0.01) / reach).clamp(max=1)
    first = x - float(eps) * part[:, None, None, None] * way
    given = context_of(Cautious(), static, x, labels, spec, static_points=first)
    over = static(x)[:, 0] + Cautious.advantage - reach
    least, most = int((over > 0.02).sum()), int((over > -0.05).sum())
    assert least <= robust_under("transfer", given) <= most
    alone = int(judge(Cautious(), first, labels).sum())
    assert alone > most + 2
    named = Counter(run("transfer", given).broken_by)
    assert named["transfer"] == len(x) - alone
    assert named["largest-margin"] == alone - robust_under("transfer", given)


def test_an_evaluation_asks_the_defense_for_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    static = Away()
    x = 0.3 + 0.4 * tiny_images(COUNT)
    actual = {}
    for kind in (Rounded, Declaring):
        _, record = dentbench.evaluate(
            static,
            x,
            labels_of(Linear(), x),
            defense=kind,
            attack=AttackSpec(name="quick", eps=EPS, iterations=10),
            protocols=["transfer"],
            results=tmp_path,
            force=True,  # the static model is as good as chance
        )
        actual[kind] = record.protocol_counts["transfer"]
    assert actual[Declaring] < actual[Rounded] - 4
