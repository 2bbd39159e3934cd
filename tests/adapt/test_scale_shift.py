"""A scale and a shift per image and channel, against the plain formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dentbench.adapt import scale_shift
from dentbench.adapt.scale_shift import scaled


@pytest.fixture(params=[1, 2, 5, 100])
def images_at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a part be so many images of :func:`operands`."""
    monkeypatch.setattr(scale_shift, "PART", request.param * 4 * 3 * 4 * 6)
    return int(request.param)


def operands(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x, scale, shift and a gradient of the output."""
    torch.manual_seed(0)
    x, grad = torch.randn(2, 5, 3, 4, 6)
    layout = torch.channels_last
    scale, shift = torch.randn(2, 5, 3, 1, 1)
    return (
        x.to(dtype).contiguous(memory_format=layout).requires_grad_(),
        scale.requires_grad_(),
        shift.requires_grad_(),
        grad.to(dtype).contiguous(memory_format=layout),
    )


def formula(x: Tensor, scale: Tensor, shift: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Return the output and the gradients of x, scale and shift, from their definitions."""
    x, scale, shift, grad = (tensor.detach().double() for tensor in (x, scale, shift, grad))
    y = x * scale + shift
    sums = [tensor.sum((2, 3))[:, :, None, None] for tensor in (grad * x, grad)]
    return y, grad * scale, *sums


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8)], ids=str
)
def test_output_and_gradients_are_the_formula(
    images_at_a_time: int, dtype: torch.dtype, tolerance: float
) -> None:
    *given, grad = operands(dtype)
    y = scaled(*given)
    actual = (y, *torch.autograd.grad(y, given, grad))
    for item, right in zip(actual, formula(*given, grad), strict=True):
        torch.testing.assert_close(item.double(), right, rtol=tolerance, atol=tolerance)
    assert [tensor.dtype for tensor in actual] == [dtype, dtype, torch.float32, torch.float32]
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_sums_in_mixed_precision_are_those_of_float32() -> None:
    """Bfloat16 has 8 bits: sums of rounded products would be further away."""
    *given, grad = operands(torch.bfloat16)
    _, *actual = torch.autograd.grad(scaled(*given), given, grad)
    for item, right in zip(actual, formula(*given, grad)[2:], strict=True):
        torch.testing.assert_close(item.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_only_the_gradients_that_are_wanted(wanted: tuple[int, ...], images_at_a_time: int) -> None:
    *given, grad = operands()
    asked = [tensor if place in wanted else tensor.detach() for place, tensor in enumerate(given)]
    actual = torch.autograd.grad(scaled(*asked), [asked[place] for place in wanted], grad)
    for place, item in zip(wanted, actual, strict=True):
        right = formula(*given, grad)[1 + place]
        torch.testing.assert_close(item.double(), right, rtol=1e-5, atol=1e-5)


def test_gradients_of_gradients(images_at_a_time: int) -> None:
    torch.manual_seed(0)
    given = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 3, 4, 6), (3, 3, 1, 1), (3, 3, 1, 1))
    ]
    assert torch.autograd.gradcheck(scaled, given)
    assert torch.autograd.gradgradcheck(scaled, given)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wanted", [(0, 1, 2), (0, 1, 2, 3), (1, 2), (3,)], ids=str)
def test_what_follows_is_as_by_itself(
    images_at_a_time: int, dtype: torch.dtype, rectified: bool, wanted: tuple[int, ...]
) -> None:
    """A sum and a ReLU together with the scale and shift, and after it: the same bits."""
    *given, grad = operands(dtype)
    given.append(torch.randn_like(given[0]))
    given = [tensor.detach().requires_grad_(place in wanted) for place, tensor in enumerate(given)]
    asked = [given[place] for place in wanted]
    at_once = scaled(*given, rectified=rectified)
    actual = torch.autograd.grad(at_once, asked, grad)
    after = scaled(*given[:3]) + given[3]
    after = after.relu() if rectified else after
    assert torch.equal(at_once, after)
    for tensor, other in zip(actual, torch.autograd.grad(after, asked, grad), strict=True):
        assert torch.equal(tensor, other)
        assert tensor.dtype == other.dtype


def test_gradients_of_gradients_of_what_follows(images_at_a_time: int) -> None:
    torch.manual_seed(0)
    shapes = ((3, 3, 4, 6), (3, 3, 1, 1), (3, 3, 1, 1), (3, 3, 4, 6))
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def all_of_it(*given: Tensor) -> Tensor:
        return scaled(*given, rectified=True)

    assert torch.autograd.gradcheck(all_of_it, given)
    assert torch.autograd.gradgradcheck(all_of_it, given)


@pytest.mark.parametrize("wanted", [(True,) * 4, (True, False, True, False)], ids=str)
def test_what_a_gpu_does_in_mixed_precision(wanted: tuple[bool, ...]) -> None:
    """In one pass each, where a processor converts beforehand: the same but for the rounding."""
    x, scale, shift, grad = (operand.detach() for operand in operands(torch.bfloat16))
    y, *exact = formula(x, scale, shift, grad)
    actual = scale_shift._converted(torch.addcmul, x, shift, x, scale)
    gradients = scale_shift._mixed_gradients(grad, x, scale, (*wanted, False))
    kinds = (torch.bfloat16, torch.float32, torch.float32, torch.bfloat16)
    rows = zip(gradients, (*exact, grad.double()), kinds, wanted, strict=False)
    for tensor, right, kind, is_wanted in [(actual, y, torch.bfloat16, True), *rows]:
        assert (tensor is not None) == is_wanted
        if tensor is not None:
            assert tensor.dtype == kind
            torch.testing.assert_close(tensor.double(), right, rtol=2**-8, atol=2**-6)
