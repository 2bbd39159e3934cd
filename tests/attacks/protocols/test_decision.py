"""The attack by labels alone, on defenses that show nothing else, against closed forms."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.attacks.protocols.base import AttackContext
from dentbench.spec.dent import DentSpec
from tests.attacks.contexts import COUPLED, SEPARABLE, context_of, robust_under, run, spec_of
from tests.attacks.toys import labels_of, tiny_images

SHAPE, CLASSES, COUNT = (1, 6, 6), 4, 24


class Linear(nn.Module):
    """Logits W x + b, and the closed form of their robustness away from the box."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(CLASSES, 36, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1) - 0.5, self.weight)

    def robust(self, x: Tensor, labels: Tensor, norm: str, eps: float) -> Tensor:
        logits, order = self(x), {"Linf": 1.0, "L2": 2.0}[norm]
        margins = logits.gather(1, labels[:, None]) - logits
        reach = (self.weight[labels][:, None] - self.weight).norm(p=order, dim=2)
        own = F.one_hot(labels, CLASSES).bool()
        return ((margins > eps * reach) | own).all(1)


class OneHot(nn.Module):
    """Shows the network's label alone: every score is 0 or 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(x)


class Steep(OneHot):
    """Shows scores that are saturated in float32: the same labels, and no slope to follow."""

    def forward(self, x: Tensor) -> Tensor:
        return (1e4 * self.network(x)).softmax(1)


def task(
    defense: nn.Module,
    norm: str,
    eps: Fraction,
    queries: int,
    defended: DentSpec = COUPLED,
    **more: Any,
) -> AttackContext:
    model = Linear()
    x = 0.3 + 0.4 * tiny_images(COUNT, shape=SHAPE)
    half = queries // 2  # a protocol that stands alone has twice Square's
    spec = spec_of(COUNT, defended, norm=norm, eps=eps, batch=COUNT, cascade=False, queries=half)
    return context_of(defense, model, x, labels_of(model, x), spec, **more)


@pytest.mark.parametrize(
    ("kind", "norm", "eps", "queries", "slack"),
    [(OneHot, "Linf", Fraction(1, 80), 600, 0), (Steep, "L2", Fraction(1, 16), 600, 2)],
)
def test_labels_alone_lead_to_the_closed_form(
    kind: type[nn.Module], norm: str, eps: Fraction, queries: int, slack: int
) -> None:
    model = Linear()
    context = task(kind(model), norm, eps, queries, SEPARABLE)
    truth = int(model.robust(context.images, context.labels, norm, float(eps)).sum())
    assert 2 < truth < COUNT - 8
    assert truth <= robust_under("decision", context) <= truth + slack
    assert robust_under("scores", context) > truth + 4, "Square finds nothing in such scores"
    assert robust_under("warm", context) >= COUNT - 4, "and there is no gradient"


def test_scores_are_not_looked_at() -> None:
    model = Linear()
    shown, hidden = (
        run("decision", task(item, "Linf", Fraction(1, 80), 80)) for item in (model, OneHot(model))
    )
    assert torch.equal(shown.robust, hidden.robust)
    assert torch.equal(shown.points[~shown.robust], hidden.points[~hidden.robust])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_earlier_points_show_the_way(norm: str) -> None:
    """From the gradient's own direction a few queries are enough."""
    model = Linear()
    eps = {"Linf": Fraction(1, 80), "L2": Fraction(1, 16)}[norm]
    cold = task(OneHot(model), norm, eps, 12, SEPARABLE)
    honest = task(model, norm, eps, 12, SEPARABLE)
    start = run("warm", honest).points
    warm = task(OneHot(model), norm, eps, 12, SEPARABLE, starts=(start,))
    truth = int(model.robust(cold.images, cold.labels, norm, float(eps)).sum())
    assert robust_under("decision", warm) <= truth + 1 < robust_under("decision", cold)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_where_every_image_is_broken_already_nothing_is_asked(norm: str) -> None:
    counter = CallCounter()
    context = task(CountedNetwork(OneHot(Linear()), counter), norm, Fraction(1, 80), 12)
    settled = replace(context, natural=torch.zeros(COUNT, dtype=torch.bool))
    before = counter.forwards
    assert not run("decision", settled).robust.any()
    assert counter.forwards - before <= COUNT


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("defended", [SEPARABLE, COUPLED], ids=["alone", "coupled"])
def test_every_query_asks_about_every_image_once(norm: str, defended: DentSpec) -> None:
    counter = CallCounter()
    network = CountedNetwork(OneHot(Linear()), counter)
    context = task(network, norm, Fraction(1, 10**6), 34, defended)
    before = counter.forwards
    assert run("decision", context).robust.all()
    assert counter.forwards - before == COUNT * (34 + 1 + (defended is COUPLED))
    assert counter.backwards == 0
