"""Poisoned streams: a planted defense whose state drifts by a closed form, and online tent."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.cost import stage_passes
from dentbench.defenses.naming import built_in
from dentbench.defenses.tent import tent_online
from dentbench.evaluation.applicable_protocols import skipped
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from tests.attacks.contexts import COUPLED, Linear, context_of, run, spec_of
from tests.attacks.toys import small_network, tiny_images

EPS, RATE, COUNT = Fraction(1, 100), 0.4, 16


class Drifting(Linear):
    """A linear model whose bias goes on by the mean score of every batch, at a rate.

    Within Linf eps a batch moves it by ``RATE * eps * |w|_1`` at most.
    """

    def __init__(self, bias: Tensor | float = 0.0) -> None:
        super().__init__()
        self.bias = torch.as_tensor(bias)

    def forward(self, x: Tensor) -> Tensor:
        score = Linear.forward(self, x)[:, 0] + self.bias
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    def after(self, x: Tensor) -> Drifting:
        return Drifting((self.bias + RATE * Linear.forward(self, x)[:, 0].mean()).detach())


class Differentiable(Drifting):
    def unroll_after(self, x: Tensor) -> Differentiable:
        return Differentiable(self.bias + RATE * Linear.forward(self, x)[:, 0].mean())

    def after(self, x: Tensor) -> Differentiable:
        return Differentiable(self.unroll_after(x).bias.detach())


@pytest.mark.parametrize("kind", [Drifting, Differentiable])
@pytest.mark.parametrize("batches", [0, 1, 3])
def test_the_state_is_pushed_as_far_as_the_closed_form(kind: type[Drifting], batches: int) -> None:
    weight = Linear().weight
    towards = weight / weight.flatten().norm()
    scores = torch.linspace(0.02, 2.5, COUNT)[:, None, None, None] / weight.flatten().norm()
    images = 0.5 + scores * towards
    noise = [0.1 * (tiny_images(8, seed) - 0.5) for seed in range(batches)]
    stream = tuple(0.5 + 0.02 * towards + item for item in noise)
    state: Drifting = kind()
    now = state
    for batch in stream:
        now = now.after(batch)
    spec = spec_of(COUNT, COUPLED, eps=EPS, iterations=50, batch=COUNT)
    y = torch.zeros(COUNT, dtype=torch.long)
    context = context_of(now, Linear(), images, y, spec, stream=(state, stream))
    push = batches * RATE * float(EPS) * float(weight.abs().sum())
    pushed = Linear.forward(now, images)[:, 0] + now.bias - push
    result = run("poisoned-stream", context)
    assert result.elsewhere is not None
    expected = pushed > 0
    actual = result.elsewhere[context.natural]
    assert (actual | ~expected[context.natural]).all(), "nothing beats the closed form"
    assert int(actual.sum()) <= int(expected.sum()) + (0 if kind is Differentiable else 1)
    assert torch.equal(result.points, images), "the images of the unit are not touched"
    counts = result.details["stream"]
    assert counts["poisoned_batches"] == batches
    assert counts["natural_right_poisoned"] == int(actual.sum())
    assert batches < 3 or int(actual.sum()) < int(context.natural.sum()) - 2


def test_online_tent_is_attacked_so_and_dent_is_not(tmp_path: Path) -> None:
    base = spec_of(24, eps=Fraction(1, 5), iterations=25, batch=8)
    spec = replace(base, defense=built_in("tent-online", {"lr": 0.1}))
    network, images = small_network(), tiny_images(24)
    now, labels = tent_online(network, lr=0.1), []
    for batch in images.split(8):
        labels.append(now(batch).argmax(1))
        now = now.after(batch)
    subject = RunInputs(network=network, images=images, labels=torch.cat(labels))
    evaluation = Evaluation(subject, RunOptions(results=tmp_path))
    outcomes = evaluation.outcomes(spec, "poisoned-stream")
    poisoned = [outcome.details["stream"] for outcome in outcomes]
    assert [item["poisoned_batches"] for item in poisoned] == [0, 1, 2]
    assert [item["natural_right"] for item in poisoned] == [8, 8, 8]
    assert sum(item["natural_right_poisoned"] for item in poisoned) <= 22
    bound = stage_passes(spec, "poisoned-stream", 5)
    assert all(outcome.forwards <= 8 * bound.forwards for outcome in outcomes)
    assert all(outcome.backwards <= 8 * bound.backwards for outcome in outcomes)
    assert "poisoned-stream" not in skipped(evaluation.context, spec, ["poisoned-stream"])
    why = skipped(evaluation.context, base, ["poisoned-stream"])["poisoned-stream"]
    assert why == "the defense has no state that it carries from batch to batch"
    assert not PROTOCOLS["poisoned-stream"].reason_to_skip(spec, {"after"})
