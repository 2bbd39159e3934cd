"""The gradient in the memory of one step: that of the graph, in whole and truncated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from dentbench.adapt.dent import Dent
from dentbench.adapt.optimizers import OptimizerState, initial_state
from dentbench.spec.evaluation import DentSpec
from tests.reference import tiny_network

SETTINGS: list[dict[str, Any]] = [
    {"mode": mode, "loss": loss, "optimizer": optimizer, "blur": blur, "lr": 0.02}
    for mode, loss, optimizer, blur in (
        ("instance", "shot", "adamod", "none"),
        ("instance", "entropy", "adam", "dynamic"),
        ("batch", "entropy", "sgd", "static"),
        ("batch", "shot", "adamod-paper", "dynamic"),
    )
]


def images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, 6, 6, generator=generator, dtype=torch.float64)


def gradient(dent: Dent, x: Tensor, last: int | None) -> Tensor:
    leaf = x.clone().requires_grad_()
    logits = dent.predict(leaf, dent.unroll(leaf, last=last))
    (grad,) = torch.autograd.grad((logits**2)[:, :3].sum(), leaf)
    return grad


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_all_steps_give_the_gradient_of_the_graph(settings: dict[str, Any]) -> None:
    dent = Dent(tiny_network().double(), DentSpec(steps=3, **settings))
    x = images()
    torch.testing.assert_close(dent.predict(x, dent.unroll(x, last=3)), dent(x), rtol=0, atol=1e-12)
    whole = gradient(dent, x, None)
    for last in (3, 7):
        torch.testing.assert_close(gradient(dent, x, last), whole, rtol=1e-9, atol=1e-12)


def test_it_is_the_gradient_of_the_composed_map() -> None:
    model = tiny_network().double()
    model[2] = model[5] = torch.nn.Softplus()  # type: ignore[operator]
    dent = Dent(model, DentSpec(steps=2, lr=0.05, loss="shot"))
    x = images(2)[:, :, :4, :4].clone().requires_grad_()
    assert gradcheck(lambda x: dent.predict(x, dent.unroll(x, last=2)), (x,), atol=1e-6, rtol=1e-4)


def test_the_truncated_gradient_takes_earlier_steps_for_constants() -> None:
    spec = DentSpec(steps=3, lr=0.05, optimizer="sgd")
    dent = Dent(tiny_network().double(), spec)
    x = images()
    # By hand: the parameters after the first step are handed on without their graph.
    leaf = x.clone().requires_grad_()
    parameters = dent.adapted.start(len(x)).requires_grad_()
    state = initial_state(parameters)
    parameters, state, _ = dent._step(leaf, parameters, state, True)
    parameters = parameters.detach().requires_grad_()
    state = OptimizerState(state.step, tuple(a.detach() for a in state.averages))
    for _ in range(2):
        parameters, state, _ = dent._step(leaf, parameters, state, True)
    logits = dent._forward(leaf, *dent.adapted.parts(parameters))
    (expected,) = torch.autograd.grad((logits**2)[:, :3].sum(), leaf)

    actual = gradient(dent, x, 2)

    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    assert (actual - gradient(dent, x, None)).abs().max() > 1e-6


def test_the_graph_does_not_grow_with_the_steps() -> None:
    def nodes(steps: int, last: int | None) -> int:
        x = images().requires_grad_()
        dent = Dent(tiny_network().double(), DentSpec(steps=steps))
        affine = dent.unroll(x, last=last).affine
        assert affine is not None
        seen: set[Any] = set()
        queue = [affine.grad_fn]
        while queue:
            node = queue.pop()
            if node is not None and node not in seen:
                seen.add(node)
                queue += [following for following, _ in node.next_functions]
        return len(seen)

    assert nodes(2, 2) == nodes(6, 6)
    assert nodes(6, None) > nodes(2, None) > nodes(2, 2)


def test_zero_steps_have_nothing_to_unroll() -> None:
    dent = Dent(tiny_network(), DentSpec(steps=0))
    assert dent.unroll(images().float(), last=2).affine is None
