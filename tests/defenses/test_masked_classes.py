"""A class that a user's defense masks by minus infinity is an answer; missing answers are none."""

from __future__ import annotations

import pytest
import torch

from dentbench.attacks.base import answered, scale_of
from dentbench.defenses.checked import MASK, Own

IMAGES = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
INF, NAN = torch.inf, torch.nan


def answers_of(*rows: list[float]) -> torch.Tensor:
    logits = torch.tensor(rows)
    return Own("planted", lambda x: logits + 0 * x.flatten(1).sum(1, keepdim=True), 3)(
        IMAGES[: len(rows)]
    )


def test_masked_classes_are_far_below_all_others_and_change_no_label() -> None:
    logits = answers_of([2.0, -INF, 1.0], [-INF, -3.0, -INF], [1.0, 2.0, 3.0])
    assert logits.tolist() == [[2, 1 - MASK, 1], [-3 - MASK, -3, -3 - MASK], [1, 2, 3]]
    assert bool(answered(logits).all())
    assert scale_of(logits) < 100  # differences are measured by leads, as if nothing were masked


@pytest.mark.parametrize("row", [[-INF] * 3, [1.0, NAN, -INF], [INF, -INF, 0.0], [NAN] * 3])
def test_what_has_no_label_is_no_answer(row: list[float]) -> None:
    assert answered(answers_of([1.0, 2.0, 3.0], row)).tolist() == [True, False]


def test_the_gradient_of_the_other_classes_is_kept() -> None:
    x = IMAGES.clone().requires_grad_()
    masked = torch.tensor([False, True])
    own = Own("planted", lambda x: x.flatten(2)[:, 0, :2].masked_fill(masked, -INF), 2)
    (gradient,) = torch.autograd.grad(own(x)[:, 0].sum(), x)
    assert gradient.flatten(1).tolist() == [[1, 0, 0, 0]] * len(x)
