"""Numbers of a GPU, in each precision, against float64 on the CPU."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.adapt.blur import gaussian_blur
from dentbench.adapt.scale_shift import scaled
from dentbench.compute.backend import Engine
from dentbench.compute.precision import Bfloat16, tensor_float32
from tests.compute.networks import network
from tests.gpu.networks import gradient, resnet20

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def far(first: Tensor, other: Tensor) -> float:
    """Return how far one is from the other, relative to the other's size."""
    first, other = (part.detach().double().cpu() for part in (first, other))
    return float((first - other).norm() / other.norm())


def exact(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().double()


@pytest.mark.parametrize(
    ("precision", "low", "high"),
    [("fp32", 0.0, 1e-4), ("tf32", 1e-6, 5e-2), ("bf16", 1e-5, 0.2)],
)
def test_each_precision_is_as_exact_as_it_says(precision: str, low: float, high: float) -> None:
    model, x = resnet20(), torch.rand(16, 3, 32, 32)
    fast = Bfloat16(model) if precision == "bf16" else model
    right = gradient(exact(model), x.double())
    with tensor_float32(precision == "tf32"):
        actual = gradient(fast, x.cuda())
        dent = Dent(fast, DentSpec(steps=2))(x.cuda())
    for item, other in zip(actual, right, strict=True):
        assert low <= far(item, other) < high
    assert far(dent, Dent(exact(model), DentSpec(steps=2))(x.double())) < 4 * high


def test_float32_means_float32_after_the_engine_was_chosen() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    x = torch.rand(4, 3, 32, 32)
    engine = Engine.chosen(resnet20(), GPU, x)
    fast = engine.prepare(resnet20(), GPU, x)
    assert not torch.backends.cudnn.allow_tf32
    assert far(fast(x.cuda()), exact(resnet20())(x.double())) < 1e-5


def _unrolled(dent: Dent, last: int | None, x: Tensor) -> Tensor:
    return dent.predict(x, dent.unroll(x, last))


@pytest.mark.parametrize("last", [None, 1, 2])
@pytest.mark.parametrize("loss", ["shot", "entropy"])
def test_the_exact_gradient_through_all_updates(last: int | None, loss: str) -> None:
    model, spec = network(), DentSpec(steps=2, loss=loss, lr=0.02)
    x = torch.rand(4, 3, 6, 6)
    actual = []
    for item, images in ((model.cuda(), x.cuda()), (exact(model), x.double())):
        actual.append(gradient(partial(_unrolled, Dent(item, spec), last), images)[1])
    assert far(*actual) < 1e-3


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_gradients_of_gradients_of_a_scale_and_a_shift(rectified: bool, added: bool) -> None:
    shapes = ((2, 3, 4, 4), (2, 3, 1, 1), (2, 3, 1, 1), (2, 3, 4, 4))
    inputs = [torch.randn(s, dtype=torch.float64, device="cuda").requires_grad_() for s in shapes]
    inputs = inputs if added else inputs[:3]

    def function(*values: Tensor) -> Tensor:
        return scaled(*values, rectified=rectified)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("rectified", [False, True])
def test_a_scale_and_a_shift_in_mixed_precision(rectified: bool) -> None:
    x, other, grad = torch.randn(3, 4, 16, 8, 8, device="cuda").bfloat16()
    scale, shift = torch.randn(2, 4, 16, 1, 1, device="cuda")
    actual = []
    for kind in (torch.bfloat16, torch.float64):
        leaves = [x.to(kind), other.to(kind), scale, shift]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        if kind == torch.float64:
            leaves[2:] = [leaf.double().detach().requires_grad_() for leaf in leaves[2:]]
        y = scaled(leaves[0], leaves[2], leaves[3], leaves[1], rectified=rectified)
        assert y.dtype == kind
        actual.append((y, *torch.autograd.grad(y, leaves, grad.to(kind))))
    for item, right in zip(*actual, strict=True):
        assert far(item, right) < 2e-2


@pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.3, -2.0])
def test_a_blur_is_that_of_the_cpu(padding: str, sigma: float) -> None:
    x = torch.rand(2, 3, 12, 12)
    actual = []
    for device in (CPU, GPU):
        images = x.to(device, torch.float64).requires_grad_()
        width = torch.tensor(sigma, dtype=torch.float64, device=device).requires_grad_()
        blurred = gaussian_blur(images, width, padding)
        grads = torch.autograd.grad(blurred.square().sum(), (images, width))
        actual.append([part.cpu() for part in (blurred, *grads)])
    for item, other in zip(*actual, strict=True):
        torch.testing.assert_close(item, other, rtol=1e-9, atol=1e-9)


def test_twice_the_same_bits() -> None:
    model, x = resnet20(), torch.rand(16, 3, 32, 32, device="cuda")
    dent = Dent(model, DentSpec())
    first = gradient(dent, x)
    for _ in range(3):
        assert all(map(torch.equal, first, gradient(dent, x)))
