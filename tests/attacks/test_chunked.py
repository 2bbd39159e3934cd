"""A defense shown in parts answers as it does whole, and so do its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from dentbench.attacks.chunked import Chunked
from dentbench.attacks.counting import CallCounter


class Noisy:
    """Scales every image by numbers that it draws."""

    def __call__(self, x: Tensor) -> Tensor:
        return (x * torch.rand_like(x)).flatten(1).square()


def test_the_gradient_is_that_of_the_random_numbers_of_the_answer() -> None:
    x = torch.rand(5, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    parts = torch.cat([Noisy()(part) for part in x.split(2)])
    (expected,) = torch.autograd.grad(parts.sum(), x)
    torch.manual_seed(3)
    answer = Chunked(Noisy(), 2, CallCounter())(x)
    after = torch.rand(3)
    torch.manual_seed(4)
    (actual,) = torch.autograd.grad(answer.sum(), x)
    assert torch.equal(answer, parts) and torch.allclose(actual, expected, atol=1e-12)
    # On the way back nothing is drawn from the stream of others.
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(4)))
    torch.manual_seed(3)
    _ = [Noisy()(part) for part in x.split(2)]
    assert torch.equal(after, torch.rand(3))
