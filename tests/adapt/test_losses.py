"""The losses' closed forms, against autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dentbench.adapt.losses import load_loss, with_gradient
from dentbench.spec.dent import LOSSES


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("spread", [0.01, 3.0, 60.0])
@pytest.mark.parametrize(("images", "count"), [(1, 1), (7, 7), (7, 128)])
def test_loss_and_gradient_are_those_of_autograd(
    name: str, spread: float, images: int, count: int
) -> None:
    torch.manual_seed(0)
    logits = (spread * torch.randn(images, 10, dtype=torch.float64)).requires_grad_()
    loss = load_loss(name)
    right = loss(logits, count)
    (gradient,) = torch.autograd.grad(right, logits)
    with torch.no_grad():
        actual = with_gradient(loss)(logits, count)
    torch.testing.assert_close(actual, (right.detach(), gradient), rtol=1e-12, atol=1e-14)


def test_a_loss_without_a_closed_form_is_differentiated() -> None:
    def least(logits: Tensor, count: int) -> Tensor:
        return logits.square().sum() / count

    logits = torch.randn(3, 10)
    with torch.no_grad():
        loss, gradient = with_gradient(least)(logits, 4)
    torch.testing.assert_close(loss, logits.square().sum() / 4)
    torch.testing.assert_close(gradient, logits / 2)
    assert not loss.requires_grad
