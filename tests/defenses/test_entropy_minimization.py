"""EATA and SAR against transcriptions of their released steps, and their exact gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dentbench.defenses.build import build
from dentbench.defenses.naming import built_in
from dentbench.errors import ModelError
from tests.adapt.networks import mixed
from tests.reference import tiny_network

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
WEIGHTS = torch.randn(6, 10, generator=torch.Generator().manual_seed(5)).double()
SETTINGS = {"steps": 2, "lr": 0.01}
MARGINS = {"mixed": 0.4, "batchnorm": 0.6}
"""Of ln(10), such that some of the images are reliable."""


def entropy(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits).entropy()


def trainable(kind: str) -> tuple[nn.Module, list[nn.Parameter]]:
    """A network whose normalization layers are to move, BatchNorm by the batch's statistics."""
    network = mixed() if kind == "mixed" else tiny_network().double().requires_grad_(False)
    chosen = []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = layer.running_var = None
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            if layer.bias is None:
                layer.bias = nn.Parameter(torch.zeros_like(layer.weight))
            chosen += [layer.weight.requires_grad_(), layer.bias.requires_grad_()]
    return network, chosen


def original(kind: str) -> nn.Module:
    return mixed() if kind == "mixed" else tiny_network().double().requires_grad_(False)


@pytest.mark.parametrize("kind", ["mixed", "batchnorm"])
def test_eata(kind: str) -> None:
    network, chosen = trainable(kind)
    optimizer = torch.optim.SGD(chosen, lr=0.01, momentum=0.9)
    limit = MARGINS[kind] * math.log(10)
    used = set()
    for _ in range(2):
        actual = entropy(network(IMAGES))
        kept = actual[actual < limit]
        used.add(len(kept))
        optimizer.zero_grad()
        (kept * torch.exp(limit - kept.detach())).mean().backward()
        optimizer.step()
    assert used - {0, len(IMAGES)}, "some images are reliable and some are not"
    settings = {**SETTINGS, "margin": MARGINS[kind]}
    defense = build(built_in("eata", settings), original(kind), IMAGES)
    torch.testing.assert_close(defense(IMAGES), network(IMAGES).detach())


@pytest.mark.parametrize("kind", ["mixed", "batchnorm"])
def test_sar(kind: str) -> None:
    network, chosen = trainable(kind)
    optimizer = torch.optim.SGD(chosen, lr=0.01, momentum=0.9)
    limit, rho = MARGINS[kind] * math.log(10), 0.3
    for _ in range(2):
        actual = entropy(network(IMAGES))
        reliable = actual < limit
        grads = torch.autograd.grad(actual[reliable].mean(), chosen)
        length = torch.cat([grad.flatten() for grad in grads]).norm()
        before = [tensor.detach().clone() for tensor in chosen]
        with torch.no_grad():
            for entry, grad in zip(chosen, grads, strict=True):
                entry += rho * grad / (length + 1e-12)
        actual = entropy(network(IMAGES))[reliable]
        optimizer.zero_grad()
        actual[actual < limit].mean().backward()
        with torch.no_grad():
            for item, value in zip(chosen, before, strict=True):
                item.copy_(value)
        optimizer.step()
    settings = {**SETTINGS, "margin": MARGINS[kind]}
    defense = build(built_in("sar", {**settings, "rho": 0.3}), original(kind), IMAGES)
    torch.testing.assert_close(defense(IMAGES), network(IMAGES).detach())
    flat = build(built_in("eata", settings), original(kind), IMAGES)
    assert not torch.allclose(defense(IMAGES), flat(IMAGES), rtol=1e-3)


def test_eata_unrolled() -> None:
    network, chosen = trainable("mixed")
    limit = MARGINS["mixed"] * math.log(10)
    names = [name for name, tensor in network.named_parameters() if tensor.requires_grad]
    values = [tensor.detach().clone().requires_grad_() for tensor in chosen]
    velocity = [torch.zeros_like(value) for value in values]
    leaf = IMAGES.clone().requires_grad_()

    def answer(x: Tensor) -> Tensor:
        moved = dict(zip(names, values, strict=True))
        logits: Tensor = torch.func.functional_call(network, moved, x)
        return logits

    for _ in range(2):
        actual = entropy(answer(leaf))
        kept = actual[actual < limit]
        weights = torch.exp(limit - kept) / len(kept)  # no part of the step's slope, but of images
        grads = torch.autograd.grad(kept, values, grad_outputs=weights, create_graph=True)
        velocity = [0.9 * item + grad for item, grad in zip(velocity, grads, strict=True)]
        values = [value - 0.01 * moved for value, moved in zip(values, velocity, strict=True)]
    (right,) = torch.autograd.grad((answer(leaf) * WEIGHTS).sum(), leaf)
    settings = {**SETTINGS, "margin": MARGINS["mixed"]}
    defense = build(built_in("eata", settings), mixed(), IMAGES)
    for last in (None, 2):
        logits = defense.predict(leaf, defense.unroll(leaf, last=last))
        (actual,) = torch.autograd.grad((logits * WEIGHTS).sum(), leaf)
        torch.testing.assert_close(actual, right)


def test_sars_unrolled_gradient_is_that_of_differences() -> None:
    settings = {**SETTINGS, "margin": MARGINS["mixed"], "rho": 0.3}
    defense = build(built_in("sar", settings), mixed(), IMAGES)
    direction = torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(6)).double()

    def value(x: Tensor, last: int | None = None) -> Tensor:
        return (defense.predict(x, defense.unroll(x, last=last)) * WEIGHTS).sum()

    leaf = IMAGES.clone().requires_grad_()
    (actual,) = torch.autograd.grad(value(leaf), leaf)
    (again,) = torch.autograd.grad(value(leaf, 2), leaf)
    torch.testing.assert_close(actual, again)
    ahead, behind = (value(IMAGES + sign * 1e-6 * direction) for sign in (1, -1))
    slope = (ahead - behind) / 2e-6
    torch.testing.assert_close((actual * direction).sum(), slope.detach(), rtol=1e-5, atol=1e-7)


def test_where_no_image_is_reliable_nothing_moves() -> None:
    for name in ("eata", "sar"):
        defense = build(built_in(name, {"margin": 1e-9}), mixed(), IMAGES)
        start = defense.start().affine
        assert torch.equal(defense.adapt(IMAGES).affine, start)
        leaf = IMAGES.clone().requires_grad_()
        defense.predict(leaf, defense.unroll(leaf)).sum().backward()
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
        with pytest.raises(ModelError, match="no BatchNorm2d, GroupNorm or LayerNorm layer"):
            build(built_in(name), nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), IMAGES)
