"""Networks whose normalizations are joined with the next layer, against the networks themselves."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.compute.answers import answers
from dentbench.compute.bn_relu_fusion import JoinedForward, joined_if_same
from dentbench.zoo.models import load_model

IMAGES = torch.rand(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))


class Made(nn.Module):
    """A network of two convolutions and normalizations, and ``body`` between them and the head."""

    def __init__(self, body: Callable[[Made, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.bn1, self.bn2 = (nn.BatchNorm2d(4) for _ in range(2))
        for bn in (self.bn1, self.bn2):
            for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.3, 1.5)
        self.relu = nn.ReLU()
        self.in_place = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 10)
        self.body = body
        self.calls = 0
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self, x).sum((2, 3)))
        return logits


def iadd(net: Made, x: Tensor) -> Tensor:
    out = net.bn1(net.conv1(x))
    out += x
    return net.in_place(out)


def sum_in_place_of_another(net: Made, x: Tensor) -> Tensor:
    """The first summand is read again, so the sum must stay in place."""
    kept = net.conv2(x)
    kept += net.bn1(net.conv1(x))
    return F.relu(kept) + kept


JOINED: dict[str, tuple[Callable[[Made, Tensor], Tensor], int]] = {
    "function": (lambda net, x: F.relu(net.bn1(net.conv1(x))), 1),
    "method": (lambda net, x: net.bn1(net.conv1(x)).relu_(), 1),
    "layers": (lambda net, x: net.relu(net.bn2(net.conv2(net.in_place(net.bn1(x))))), 2),
    "sum": (lambda net, x: F.relu(net.bn2(net.conv2(F.relu(net.bn1(x)))) + x), 2),
    "sum, the other way": (lambda net, x: torch.relu(torch.add(x, net.bn1(net.conv1(x)))), 1),
    "sum of two": (lambda net, x: net.relu(net.bn1(net.conv1(x)) + net.bn2(net.conv2(x))), 1),
    "sum in place": (iadd, 1),
}

UNJOINED: dict[str, Callable[[Made, Tensor], Tensor]] = {
    "no ReLU": lambda net, x: F.silu(net.bn1(net.conv1(x))),
    "looked at twice": lambda net, x: (y := net.bn1(net.conv1(x))) * F.relu(y),
    "a number added": lambda net, x: F.relu(net.bn1(net.conv1(x)) + 1),
    "a part of the sum": lambda net, x: F.relu(torch.add(net.bn1(net.conv1(x)), x, alpha=2)),
    "the sum in place of another": sum_in_place_of_another,
    "a branch": lambda net, x: F.relu(net.bn1(x)) if x.sum() > 0 else x,
    "drawn": lambda net, x: F.relu(net.bn1(x)) + torch.randn(1),
    "drawn like the images": lambda net, x: F.relu(net.bn1(x)) + torch.rand_like(x),
    "drawn, and seldom of any effect": lambda net, x: F.relu(net.bn1(x)) * (torch.rand(()) < 0.999),
    "drawn elsewhere": lambda net, x: F.relu(net.bn1(x)) * (random.random() < 0.999),
    "drawn by numpy": lambda net, x: F.relu(net.bn1(x)) * float(np.random.rand() < 0.999),
    "a constant": lambda net, x: F.relu(net.bn1(x)) * torch.tensor(2.0),
    "without a gradient": lambda net, x: F.relu(net.bn1(x)) * x.detach() + no_gradient(x) * x,
}


def no_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.square()


def steps_joined(network: nn.Module) -> int:
    assert isinstance(network.forward, JoinedForward)
    return network.forward.steps


@pytest.mark.parametrize("name", JOINED)
def test_what_is_joined_answers_the_same(name: str) -> None:
    body, count = JOINED[name]
    network = Made(body)
    joined = joined_if_same(network, IMAGES[:2])
    assert steps_joined(joined) == count
    assert type(joined) is Made and "forward" not in vars(network)
    for answer, other in zip(answers(joined, IMAGES), answers(network, IMAGES), strict=True):
        assert torch.equal(answer, other)
    adapted, right = (Dent(item, DentSpec(steps=2), prepare=False) for item in (joined, network))
    assert adapted.adapted.layer_names == right.adapted.layer_names
    for item, other in zip(answers(adapted, IMAGES), answers(right, IMAGES), strict=True):
        assert torch.equal(item, other)


@pytest.mark.parametrize("name", UNJOINED)
def test_what_cannot_be_joined_stays(name: str) -> None:
    network = Made(UNJOINED[name])
    assert joined_if_same(network, IMAGES[:2]) is network


class Counter(nn.Module):
    """A network that counts its calls in a way of its own."""

    def __init__(self, count: Callable[[Any], object], start: Any) -> None:
        super().__init__()
        self.network = Made(JOINED["sum"][0])
        self.count = count
        if isinstance(start, Tensor):
            self.register_buffer("calls", start)
        else:
            self.calls = start

    def forward(self, x: Tensor) -> Tensor:
        self.count(self)
        logits: Tensor = self.network(x)
        return logits


def increase(counter: Any) -> None:
    counter.calls += 1


COUNTERS: dict[str, tuple[Callable[[Any], object], Any]] = {
    "a number": (increase, 0),
    "a list": (lambda counter: counter.calls.append(1), [0]),
    "an object": (lambda counter: vars(counter.calls).update(made=1), SimpleNamespace(made=0)),
    "a buffer": (lambda counter: counter.calls.add_(1), torch.zeros(())),
    "an attribute that is new": (lambda counter: setattr(counter, "called", True), 0),
}


@pytest.mark.parametrize("name", COUNTERS)
def test_a_network_that_changes_itself_stays(name: str) -> None:
    count, start = COUNTERS[name]
    network = nn.Sequential(Counter(count, copy.deepcopy(start)))
    assert joined_if_same(network, IMAGES[:2]) is network


def test_a_network_that_changes_nothing_of_itself_is_joined() -> None:
    network = nn.Sequential(Counter(lambda counter: counter.calls, [0]))
    assert steps_joined(joined_if_same(network, IMAGES[:2])) == 2


class Head(nn.Module):
    """Counts its calls, and has no normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


def test_a_layer_beside_the_normalizations_is_called_as_ever() -> None:
    network = nn.Sequential(Made(JOINED["sum"][0]), head := Head())
    joined = joined_if_same(network, IMAGES[:2])
    assert steps_joined(joined) == 2
    for _ in range(2):
        joined(IMAGES)
    assert head.calls == 2


def test_a_network_whose_call_count_decides_stays() -> None:
    def body(net: Made, x: Tensor) -> Tensor:
        net.calls += 1
        return F.relu(net.bn1(x)) * net.calls

    network = Made(body)
    assert joined_if_same(network, IMAGES[:2]) is network
    assert network.calls == 0  # a copy of it is tried


def test_a_network_without_normalization_stays() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
    assert joined_if_same(network, IMAGES[:2]) is network


def test_layers_with_hooks_are_called() -> None:
    network = Made(JOINED["layers"][0])
    network.bn1.register_forward_hook(lambda layer, given, y: y * 2)
    network.relu.register_forward_hook(lambda layer, given, y: y + 1)
    joined = joined_if_same(network, IMAGES[:2])
    assert steps_joined(joined) == 1  # the ReLU that has a hook is left alone
    adapted, right = (Dent(item, DentSpec(steps=2), prepare=False) for item in (joined, network))
    assert torch.equal(adapted(IMAGES), right(IMAGES))
    assert not torch.equal(adapted(IMAGES), Dent(Made(JOINED["layers"][0]))(IMAGES))


SETTINGS: list[dict[str, str]] = [
    *({}, {"mode": "batch"}, {"statistics": "batch"}),
    {"statistics": "mix:0.5", "blur": "dynamic"},
]
DIGITS, RESNET = ("digits-robust", 7, (1, 8, 8)), ("cifar10-resnet20-robust", 19, (3, 32, 32))


@pytest.mark.parametrize(
    ("name", "count", "shape", "settings"),
    [
        *((*DIGITS, settings) for settings in SETTINGS),
        *((*RESNET, settings) for settings in (SETTINGS[0], SETTINGS[-1])),
        *(pytest.param(*RESNET, item, marks=pytest.mark.sweep) for item in SETTINGS[1:-1]),
    ],
    ids=str,
)
def test_all_of_the_embedded_networks_is_joined(
    name: str, count: int, shape: tuple[int, ...], settings: dict[str, str]
) -> None:
    network = load_model(name).network.eval().requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)
    images = torch.rand(3, *shape)
    joined = joined_if_same(network, images[:2])
    assert steps_joined(joined) == count
    spec = DentSpec(steps=2, **settings)
    adapted, right = (Dent(item, spec) for item in (joined, network))
    for answer, other in zip(answers(adapted, images), answers(right, images), strict=True):
        assert torch.equal(answer, other)
