"""Answers without an input gradient: a failed check, never an error from inside autograd."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dentbench
from dentbench.attacks.checks import failed
from dentbench.attacks.differentiable import attackable, gradient_path
from dentbench.errors import ModelError
from dentbench.spec.evaluation import AttackSpec
from tests.reference import tiny_network

pytestmark = pytest.mark.checks

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def without_grad(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(x)
    return logits


def in_inference(network: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network(x)
    return logits


def one_hot(network: nn.Module, x: Tensor) -> Tensor:
    return F.one_hot(network(x).argmax(1), 10)


def detached(network: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = network(x.detach())
    return logits


def used_up(network: nn.Module, x: Tensor) -> Tensor:
    """Goes backward through its own graph, which is then gone."""
    logits: Tensor = network(x)
    if logits.requires_grad:
        logits.exp().sum().backward()
    return logits.exp()


def forbidding(network: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = network(x.requires_grad_(False))
    return logits


def through_numpy(network: nn.Module, x: Tensor) -> Tensor:
    return torch.from_numpy(network(x.detach()).detach().numpy())


def double(network: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = network(x).double()
    return logits


BLIND = {
    "missing": (without_grad, in_inference, one_hot, detached, through_numpy),
    "broken": (used_up, forbidding),
}
"""Answers without an input gradient, by the path that is found; each is its own kind of tensor."""

WHOLE = (in_inference, one_hot, used_up, forbidding)
"""Those that differ to a whole run too: in inference mode, of whole numbers, raising errors."""


class Answering(nn.Module):
    separable = True

    def __init__(self, answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = tiny_network()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.inner, x)


def evaluated(model: nn.Module, defense: Any, results: Path, *protocols: str) -> Any:
    with torch.no_grad():
        labels = model.eval()(IMAGES).argmax(1)
    return dentbench.evaluate(
        model,
        IMAGES,
        labels,
        defense=defense,
        attack=AttackSpec(name="quick", eps=Fraction(1, 50), iterations=2, targets=1),
        protocols=["published", *protocols],
        results=results,
        progress="none",
    )


@pytest.mark.parametrize("answer", WHOLE)
def test_a_defense_without_a_gradient_fails_the_check(answer: Any, tmp_path: Path) -> None:
    actual = evaluated(tiny_network(), Answering(answer).eval(), tmp_path, "warm", "bpda")
    assert "gradient" in {check.name for check in failed(actual.defended.checks)}
    assert "gradient" not in {check.name for check in failed(actual.static.checks)}


@pytest.mark.parametrize("answer", WHOLE)
def test_a_model_without_a_gradient_fails_the_check(answer: Any, tmp_path: Path) -> None:
    actual = evaluated(Answering(answer).eval(), "hedge,steps=2", tmp_path)
    assert "gradient" in {check.name for check in failed(actual.static.checks)}


@pytest.mark.parametrize("answer", [without_grad, one_hot, used_up])
def test_dent_refuses_a_network_that_gives_it_nothing_to_follow(
    answer: Any, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="dent cannot adapt"):
        evaluated(Answering(answer).eval(), "dent", tmp_path)


def test_logits_of_another_type_are_attacked_as_the_images_are(tmp_path: Path) -> None:
    plain = evaluated(tiny_network(), Answering(lambda net, x: net(x)).eval(), tmp_path / "a")
    wide = evaluated(tiny_network(), Answering(double).eval(), tmp_path / "b")
    assert plain.defended.by_protocol == wide.defended.by_protocol
    assert not failed(wide.defended.checks)


@pytest.mark.parametrize("path", BLIND)
def test_paths_of_what_is_blind(path: Any) -> None:
    for answer in BLIND[path]:
        forward = Answering(answer).eval()
        assert gradient_path(forward, IMAGES) == path, answer
        leaf = IMAGES.clone().requires_grad_()
        logits = attackable(forward, leaf, path)
        assert torch.equal(logits, answer(forward.inner, IMAGES.clone()))
        (gradient,) = torch.autograd.grad(logits.sum(), leaf)
        assert logits.is_floating_point() and not gradient.any()


def test_paths_and_the_answers_that_they_lead_to() -> None:
    def linear(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * torch.tensor([1.0, 2.0, 3.0])

    assert gradient_path(linear, IMAGES) == "whole"
    assert gradient_path(lambda x: linear(x).detach(), IMAGES) == "missing"
    assert gradient_path(lambda x: linear(x.requires_grad_(False)), IMAGES) == "broken"
    leaf = IMAGES.clone().requires_grad_()
    for path in ("whole", "missing", "broken"):
        logits = attackable(linear if path == "whole" else lambda x: linear(x).detach(), leaf, path)
        assert torch.equal(logits, linear(IMAGES))
        (gradient,) = torch.autograd.grad(logits.sum(), leaf)
        assert bool(gradient.any()) == (path == "whole")
