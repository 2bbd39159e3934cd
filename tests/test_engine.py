"""The layout of a network's memory: a fast one where the network can be run so, the same logits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.views import BatchView
from dentbench.engine import prepared

CPU = torch.device("cpu")


def network(flatten: Callable[[Tensor], Tensor]) -> nn.Module:
    class Flatten(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return flatten(x)

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1),
        Flatten(),
        nn.Linear(8 * 36, 10),
    ).eval()


def is_channels_last(model: nn.Module) -> bool:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize("spec", [None, DentSpec(), DentSpec(mode="batch", blur="dynamic")])
def test_channels_last_gives_the_same_logits_and_gradients(spec: DentSpec | None) -> None:
    plain = network(lambda x: x.flatten(1)).requires_grad_(False)
    x = torch.rand(5, 3, 6, 6)
    fast = prepared(copy.deepcopy(plain), CPU, x)
    assert is_channels_last(fast)
    answers = []
    for model in (plain, fast):
        ask = model if spec is None else Dent(model, spec)
        given = x.clone().requires_grad_()
        logits = ask(given)
        answers.append((logits, *torch.autograd.grad(logits.square().sum(), given)))
    for got, expected in zip(*answers, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_flattens_with_view_keeps_its_layout() -> None:
    model = prepared(network(lambda x: x.view(len(x), -1)), CPU, torch.rand(2, 3, 6, 6))
    assert not is_channels_last(model)
    assert model(torch.rand(3, 3, 6, 6)).shape == (3, 10)


def test_a_network_without_convolutions_is_only_moved() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model = prepared(linear, CPU, torch.rand(1, 3, 2, 2))
    assert model is linear
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_attack_gets_a_contiguous_gradient_of_any_layout() -> None:
    model = network(lambda x: x.flatten(1)).requires_grad_(False)[:2]
    fast = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fast = fast.to(memory_format=torch.channels_last)
    x = torch.rand(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    threat = ThreatModel(norm="Linf", eps=0.1)
    view = BatchView(fast, x, torch.zeros(4, dtype=torch.long), threat, whole=True)
    given = x.contiguous().requires_grad_()
    (gradient,) = torch.autograd.grad(view(given).sum(), given)
    assert gradient.is_contiguous()
