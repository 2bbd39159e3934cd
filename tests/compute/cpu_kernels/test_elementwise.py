"""The code in C for scale, shift, sum, ReLU and AdaMod, against formulas in float64 and PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dentbench import Dent, DentSpec
from dentbench.adapt.optimizers import OptimizerState, adamod, initial_state
from dentbench.adapt.scale_shift import scaled
from dentbench.compute.answers import answers
from dentbench.compute.cpu_kernels import c_library
from dentbench.compute.cpu_kernels import elementwise as in_c
from dentbench.compute.cpu_kernels.elementwise import fused, fused_update
from dentbench.zoo.models import load_model

pytestmark = pytest.mark.usefixtures("native_code")

TIGHT = {"rtol": 1e-5, "atol": 1e-5}


def operands(
    channels: int = 48, size: int = 9, images: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return x, scale, shift, what is added and a gradient; scale and shift lie in a wider one."""
    torch.manual_seed(0)
    x, other, grad = (
        one.contiguous(memory_format=torch.channels_last)
        for one in torch.randn(3, images, channels, size, size)
    )
    flat = torch.randn(images, 2 * channels + 5)[..., None, None]
    return x, flat[:, :channels], flat[:, channels : 2 * channels], other, grad


def formula(
    x: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None, grad: Tensor, rectified: bool
) -> tuple[Tensor, ...]:
    """Return the output and the gradients of all, by their definitions, in float64."""
    x, scale, shift, grad = (one.double() for one in (x, scale, shift, grad))
    y = x * scale + shift + (0 if other is None else other.double())
    if rectified:
        y, grad = y.clamp(min=0), grad * (y > 0)
    sums = [one.sum((2, 3), keepdim=True) for one in (grad * x, grad)]
    return y, grad * scale, *sums, *([] if other is None else [grad])


@pytest.mark.parametrize(("channels", "size"), [(16, 1), (16, 40), (48, 9), (512, 2)])
@pytest.mark.parametrize(("rectified", "summed"), list(product((False, True), repeat=2)), ids=str)
def test_output_and_gradients_are_the_formula(
    channels: int, size: int, rectified: bool, summed: bool
) -> None:
    *given, grad = operands(channels, size)
    given = given if summed else given[:3]
    leaves = [one.detach().requires_grad_() for one in given]
    y = scaled(*leaves, rectified=rectified)
    assert y.grad_fn is not None and y.grad_fn.fused is not None
    found = (y, *torch.autograd.grad(y, leaves, grad))
    padded = (*given, None)[:4]
    for one, right in zip(found, formula(*padded, grad, rectified), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(one.double(), right, rtol=1e-5, atol=1e-4)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 3), (1, 2)], ids=str)
def test_only_the_gradients_that_are_wanted(wanted: tuple[int, ...], rectified: bool) -> None:
    *given, grad = operands()
    leaves = [one.detach().requires_grad_(place in wanted) for place, one in enumerate(given)]
    y = scaled(*leaves, rectified=rectified)
    found = torch.autograd.grad(y, [leaves[place] for place in wanted], grad)
    right = formula(*given, grad, rectified)[1:]
    for place, one in zip(wanted, found, strict=True):
        torch.testing.assert_close(one.double(), right[place], **TIGHT)


def test_a_gradient_that_lies_otherwise() -> None:
    *given, _ = operands()
    leaves = [one.detach().requires_grad_() for one in given]
    grad = torch.randn(given[0].shape[1:]).expand(given[0].shape)
    found = torch.autograd.grad(scaled(*leaves, rectified=True), leaves, grad)
    for one, right in zip(found, formula(*given, grad, True)[1:], strict=True):
        torch.testing.assert_close(one.double(), right, **TIGHT)


def test_a_relu_that_is_computed_again_is_the_one_that_was() -> None:
    """Without a sum it is; with a sum of zeros it is read."""
    x, scale, shift, other, grad = operands(64, 32)
    leaves = [one.detach().requires_grad_() for one in (x, scale, shift)]
    y = scaled(*leaves, rectified=True)
    summed = scaled(*leaves, torch.zeros_like(other), rectified=True)
    found, right = (torch.autograd.grad(one, leaves, grad) for one in (y, summed))
    assert torch.equal(y, summed) and all(map(torch.equal, found, right))


def test_the_answer_does_not_depend_on_the_threads() -> None:
    *given, grad = operands(64, 32, 7)
    leaves = [one.detach().requires_grad_() for one in given]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            y = scaled(*leaves, rectified=True)
            found.append([y, *torch.autograd.grad(y, leaves, grad)])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_what_is_no_number_goes_on() -> None:
    x, *rest, grad = operands()
    x[1, 2, 3, 4] = torch.nan
    leaves = [one.detach().requires_grad_() for one in (x, *rest)]
    y = scaled(*leaves, rectified=True)
    of_x, of_scale, *_ = torch.autograd.grad(y, leaves, grad)
    assert y[1, 2, 3, 4].isnan() and y.isnan().sum() == 1
    assert of_scale.isnan().nonzero().tolist() == [[1, 2, 0, 0]]
    assert of_x[1, 2, 3, 4] == grad[1, 2, 3, 4] * rest[0][1, 2, 0, 0]


def test_gradients_of_gradients_are_those_of_pytorch() -> None:
    def twice(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = [one.detach().requires_grad_() for one in given]
        y = scaled(*leaves, rectified=True)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(one.square().sum() for one in first), leaves)  # type: ignore[return-value,arg-type]

    *given, _ = operands()
    found = twice(*given)
    c_library.build_in(None)
    for one, right in zip(found, twice(*given), strict=True):
        torch.testing.assert_close(one, right, rtol=1e-4, atol=1e-2)


def changed(place: int, change: Any) -> list[Tensor]:
    given: list[Tensor] = list(operands()[:4])
    given[place] = change(given[place])
    return given


UNFIT = {
    "channels": lambda: [*operands(channels=10)[:3], None],
    "layout": lambda: changed(0, Tensor.contiguous),
    "precision": lambda: changed(0, Tensor.bfloat16),
    "wider scale": lambda: changed(1, Tensor.double),
    "scale of all images": lambda: changed(1, lambda scale: scale[:1]),
    "scale that lies otherwise": lambda: changed(1, lambda scale: scale.repeat(1, 2, 1, 1)[:, ::2]),
    "a sum that is spread": lambda: changed(3, lambda other: other[:1]),
    "a sum that lies otherwise": lambda: changed(3, Tensor.contiguous),
    "no numbers": lambda: changed(0, lambda x: x.to("meta")),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_the_code_is_not_made_for(name: str) -> None:
    assert fused(*operands()[:4]) is not None
    assert fused(*UNFIT[name]()) is None


SETTINGS = DentSpec(beta1=0.9, beta2=0.999, beta3=0.3, optimizer_eps=1e-8)


def gradients(*shape: int) -> Iterator[Tensor]:
    """Return those of six updates; some are zero, and some tiny."""
    torch.manual_seed(0)
    for _ in range(6):
        grad = torch.randn(shape)
        grad[..., 1] = 0
        grad[..., 2] *= 1e-9
        yield grad


def updated(dtype: torch.dtype, *shape: int) -> list[Tensor]:
    """Return the changes of six updates, and the moving averages at last."""
    lr = torch.linspace(0, 0.1, shape[-1]).to(dtype)
    state, found = initial_state(torch.zeros(shape, dtype=dtype)), []
    for grad in gradients(*shape):
        with torch.no_grad():
            change, state = adamod(grad.to(dtype), state, SETTINGS, lr)
        found.append(change)
    assert state.step == 6
    return [*found, *state.averages]


@pytest.mark.parametrize("shape", [(7,), (1, 33), (5, 16), (40, 1376)], ids=str)
def test_updates_are_those_of_pytorch_in_float64(shape: tuple[int, ...]) -> None:
    state = initial_state(torch.zeros(shape))
    assert fused_update(torch.ones(shape), state.averages, torch.ones(shape[-1])) is not None
    found, right = (updated(dtype, *shape) for dtype in (torch.float32, torch.float64))
    for one, its in zip(found, right, strict=True):
        torch.testing.assert_close(one.double(), its, rtol=1e-5, atol=1e-7)


def test_updates_do_not_depend_on_the_threads() -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(updated(torch.float32, 40, 1376))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_an_update_by_what_is_no_number_is_none() -> None:
    grad = torch.ones(2, 20)
    grad[1, 3] = torch.nan
    change, state = adamod(grad, initial_state(grad), SETTINGS, torch.ones(20))
    for one in (change, *state.averages):
        assert one.isnan().nonzero().tolist() == [[1, 3]]


def test_an_update_that_is_differentiated_is_pytorchs() -> None:
    def slope() -> Tensor:
        grad = torch.linspace(0.1, 1, 20).requires_grad_()
        before = OptimizerState(1, (torch.full((20,), 0.5),) * 3)
        change, _ = adamod(grad, before, SETTINGS, torch.ones(20))
        return torch.autograd.grad(change.square().sum(), grad)[0]

    found = slope()
    c_library.build_in(None)
    assert found.abs().min() > 0 and torch.equal(found, slope())


NOT_UPDATED = {
    "one learning rate": lambda grad, lr: (grad, 0.1),
    "other learning rates": lambda grad, lr: (grad, lr[:-1]),
    "precision": lambda grad, lr: (grad.double(), lr),
    "layout": lambda grad, lr: (grad.T.contiguous().T, lr),
    "no numbers": lambda grad, lr: (grad.to("meta"), lr),
}


@pytest.mark.parametrize("name", NOT_UPDATED)
def test_updates_that_the_code_is_not_made_for(name: str) -> None:
    grad, lr = torch.ones(3, 20), torch.ones(20)
    averages = initial_state(grad).averages
    assert fused_update(grad, averages, lr) is not None
    other, rates = NOT_UPDATED[name](grad, lr)
    assert fused_update(other, averages, rates) is None


@pytest.mark.parametrize(
    ("is_right", "is_wrong"),
    [
        ("value * by;", "value * by * 2;"),
        ("of * by + plus)", "of * by - plus)"),
        ("value += READ(other + p);", ";"),
        ("-(current < bound", "(current < bound"),
        ("float bound = three.old", "float bound = two.old"),
    ],
)
def test_code_that_computes_otherwise_is_not_used(
    is_right: str,
    is_wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = tmp_path / "wrong.c"
    wrong.write_text(in_c.SOURCE.read_text().replace(is_right, is_wrong))
    monkeypatch.setattr(in_c, "SOURCE", wrong)
    assert c_library.library(wrong) is not None
    assert fused(*operands()[:4]) is None
    assert "wrong.c computes other values here" in caplog.text


@pytest.mark.parametrize(
    ("name", "channels", "size"), [("digits-robust", 1, 8), ("cifar10-resnet20-robust", 3, 32)]
)
@pytest.mark.parametrize("loss", ["shot", "entropy"])
def test_dent_answers_the_same(name: str, channels: int, size: int, loss: str) -> None:
    network = load_model(name).network.to(memory_format=torch.channels_last)
    defense = Dent(network, DentSpec(steps=6, loss=loss))
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(6, channels, 4, 4), size, mode="bilinear")
    found = answers(defense, images)
    c_library.build_in(None)
    for one, right in zip(found, answers(defense, images), strict=True):
        assert not torch.equal(one, right)  # the sums are in another order
        torch.testing.assert_close(one, right, rtol=1e-4, atol=1e-4)
