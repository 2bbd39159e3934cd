"""The unrolled adaptation: the same numbers, with the exact gradient of the whole defense."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from dentbench.adapt.dent import Dent
from dentbench.adapt.optimizers import OPTIMIZERS, initial_state, safe_sqrt
from dentbench.spec.evaluation import DentSpec
from tests.adapt.networks import smooth_network

SETTINGS: list[dict[str, Any]] = [
    *({"optimizer": name} for name in OPTIMIZERS),
    *({"optimizer": name, "mode": "batch", "blur": "dynamic"} for name in OPTIMIZERS),
    {"blur": "dynamic", "padding": "reflect", "loss": "entropy", "sigma_lr": 0.3},
    {"blur": "static", "statistics": "mix:0.3"},
    {"mode": "batch", "blur": "dynamic", "delta": "none", "statistics": "batch"},
    {"mode": "batch", "blur": "dynamic", "delta": "affine-after:1"},
    {"mode": "batch", "statistics": "mix:0.6", "loss": "shot"},
    {"steps": 0, "blur": "static"},
]


def images() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(3, 1, 5, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_unroll_finds_what_adapt_finds(settings: dict[str, Any]) -> None:
    dent = Dent(smooth_network(), DentSpec(**{"steps": 3, **settings}))
    x = images()
    plain, unrolled = dent.adapt(x), dent.unroll(x)
    for name, tensor in vars(plain).items():
        other = getattr(unrolled, name)
        assert (tensor is None) == (other is None)
        if tensor is not None:
            torch.testing.assert_close(other.detach(), tensor, rtol=0, atol=1e-12)
            assert not tensor.requires_grad


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_gradient_of_the_whole_defense_is_exact(settings: dict[str, Any]) -> None:
    dent = Dent(smooth_network(), DentSpec(**{"steps": 2, **settings}))

    def defend(x: Tensor) -> Tensor:
        return dent.predict(x, dent.unroll(x))

    x = images()[:2, :, :4].requires_grad_()
    assert gradcheck(defend, (x,), atol=1e-5, rtol=1e-3)


def test_it_is_not_the_gradient_of_the_last_forward() -> None:
    dent = Dent(smooth_network(), DentSpec(steps=3, mode="batch", blur="dynamic", lr=0.05))
    x = images().requires_grad_()
    (whole,) = torch.autograd.grad(dent.predict(x, dent.unroll(x))[:, 0].sum(), x)
    (last,) = torch.autograd.grad(dent(x)[:, 0].sum(), x)
    assert (whole - last).abs().max() > 0.05 * last.abs().max()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_exactly_zero_do_no_harm(optimizer: str, dtype: torch.dtype) -> None:
    """A layer that forward never uses, as some model zoos have, has a gradient of zero."""
    dent = Dent(_WithUnusedLayer(), DentSpec(steps=3, optimizer=optimizer, blur="dynamic")).to(
        dtype
    )
    x = images().to(dtype).requires_grad_()
    adaptation = dent.unroll(x)
    (grad,) = torch.autograd.grad(dent.predict(x, adaptation).square().sum(), x)
    assert torch.isfinite(grad).all() and grad.abs().max() > 0
    scale, shift = dent.affine_parameters(adaptation)["unused"]
    assert (scale == 1).all() and (shift == 0).all()


class _WithUnusedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.BatchNorm2d(4)
        self.used = smooth_network()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.used(x)
        return logits


def test_safe_sqrt() -> None:
    values = torch.tensor([0.0, 1e-300, 0.25, 4.0], dtype=torch.float64, requires_grad=True)
    root = safe_sqrt(values)
    torch.testing.assert_close(root, values.sqrt(), rtol=0, atol=0)
    (first,) = torch.autograd.grad(root.sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), values)
    assert first[0] == second[0] == 0
    assert torch.isfinite(first).all()
    assert torch.isfinite(second[2:]).all()
    assert safe_sqrt(torch.tensor(torch.nan)).isnan()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_are_differentiable_at_a_zero_gradient(optimizer: str) -> None:
    spec = DentSpec(optimizer=optimizer)
    grad = torch.tensor([0.0, 0.3], dtype=torch.float64, requires_grad=True)
    change, state = OPTIMIZERS[optimizer](grad, initial_state(grad), spec, spec.lr)
    change = change + OPTIMIZERS[optimizer](grad, state, spec, spec.lr)[0]
    (first,) = torch.autograd.grad(change.sum(), grad)
    assert change[0] == 0
    assert torch.isfinite(first).all()


def test_unroll_works_under_no_grad_and_leaves_nothing_behind() -> None:
    model = smooth_network()
    dent = Dent(model, DentSpec(steps=2))
    with torch.no_grad():
        adaptation = dent.unroll(images())
    assert adaptation.affine is not None and adaptation.affine.requires_grad
    x = images().requires_grad_()
    torch.autograd.grad(dent.predict(x, dent.unroll(x)).sum(), x)
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert not any(buffer.requires_grad for buffer in dent.buffers())
