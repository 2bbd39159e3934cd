"""The Gaussian blur against its closed form, a slow loop, finite differences and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from dentbench.adapt.blur import IDENTITY_BELOW, gaussian_blur, gaussian_weights
from tests.reference import slow_blur

PADDINGS = ("zeros", "reflect", "replicate")
SIGMAS = (0.3, 0.5, 0.8, 1.0, 1.7, 2.5)


def images(count: int = 2, height: int = 7, width: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, 3, height, width, generator=generator, dtype=torch.float64)


def scalar(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_weights_are_the_closed_form(sigma: float) -> None:
    half = max(1, math.ceil(2 * sigma))
    raw = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-half, half + 1)]
    expected = torch.tensor([w / math.fsum(raw) for w in raw], dtype=torch.float64)
    weights = gaussian_weights(scalar(sigma), limit=31)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("sigma", "size"), [(0.0, 3), (0.1, 3), (0.5, 3), (0.51, 5), (1.0, 5), (1.01, 7), (1e9, 63)]
)
def test_the_filter_is_odd_sums_to_one_and_has_the_size_of_its_sigma(
    sigma: float, size: int
) -> None:
    for sign in (1, -1):
        weights = gaussian_weights(scalar(sign * sigma), limit=31)
        assert len(weights) == size
        assert abs(weights.sum().item() - 1) < 1e-15


def test_each_image_has_the_filter_of_its_own_sigma_exactly() -> None:
    sigmas = torch.tensor([0.0, 0.4, 1.0, 2.4, 7.0], dtype=torch.float64)
    together = gaussian_weights(sigmas, limit=31)
    for row, sigma in zip(together, sigmas, strict=True):
        alone = gaussian_weights(sigma, limit=31)
        margin = (len(row) - len(alone)) // 2
        assert torch.count_nonzero(row[:margin]) == 0
        inner = row[margin : len(row) - margin]
        torch.testing.assert_close(inner, alone, rtol=0, atol=1e-16)


@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_a_slow_loop_over_images(padding: str) -> None:
    x = images(len(SIGMAS))
    sigmas = torch.tensor(SIGMAS, dtype=torch.float64)
    expected = [slow_blur(image, s, padding) for image, s in zip(x, sigmas, strict=True)]
    close = {"rtol": 0, "atol": 1e-14}
    torch.testing.assert_close(gaussian_blur(x, sigmas, padding), torch.stack(expected), **close)
    shared = torch.stack([slow_blur(image, sigmas[3], padding) for image in x])
    torch.testing.assert_close(gaussian_blur(x, sigmas[3], padding), shared, **close)


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_constant_image_is_preserved(padding: str) -> None:
    x = torch.full((1, 2, 11, 11), 0.7, dtype=torch.float64)
    blurred = gaussian_blur(x, scalar(1.3), padding)
    inner = slice(None) if padding != "zeros" else slice(3, -3)
    torch.testing.assert_close(blurred[..., inner, inner], x[..., inner, inner])
    if padding == "zeros":
        assert (blurred[..., 0] < 0.7).all()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sigma", [[0.3], [-0.8], [0.4, 1.2], [0.01, 30.0]])
def test_derivatives_in_images_and_sigma(sigma: list[float], padding: str) -> None:
    x = images(2, 3, 4)[:, :1].requires_grad_()
    s = torch.tensor(sigma, dtype=torch.float64)
    s = (s if len(sigma) > 1 else s[0]).requires_grad_()

    def blur(x: Tensor, s: Tensor) -> Tensor:
        return gaussian_blur(x, s, padding)

    assert gradcheck(blur, (x, s))
    assert gradgradcheck(blur, (x, s))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [0.0, -0.0, 1e-30, 1e-45, -1e-3, IDENTITY_BELOW, 0.03])
def test_towards_sigma_zero_it_is_the_identity_with_finite_derivatives(
    sigma: float, dtype: torch.dtype
) -> None:
    x = images().to(dtype).requires_grad_()
    s = torch.tensor(sigma, dtype=dtype, requires_grad=True)
    blurred = gaussian_blur(x, s)
    torch.testing.assert_close(blurred, x, rtol=0, atol=1e-200)
    (first,) = torch.autograd.grad(blurred.square().sum(), s, create_graph=True)
    assert abs(first.item()) < 1e-30
    for second in torch.autograd.grad(first, (x, s)):
        assert torch.isfinite(second).all()


def test_the_special_case_near_zero_changes_no_weight() -> None:
    for sigma in (IDENTITY_BELOW * (1 - 1e-9), IDENTITY_BELOW):
        weights = gaussian_weights(scalar(sigma), limit=5)
        assert torch.equal(weights, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sigma", [4.0, 50.0, 1e30])
def test_a_filter_wider_than_the_image_is_cut_to_it(sigma: float, padding: str) -> None:
    x = images(2, 3, 6)
    s = scalar(sigma).requires_grad_()
    blurred = gaussian_blur(x, s, padding)
    assert gaussian_weights(s, 5).shape == (11,)
    assert torch.isfinite(blurred).all()
    assert (blurred >= 0).all() and (blurred <= 1).all()
    (grad,) = torch.autograd.grad(blurred.sum(), s)
    assert torch.isfinite(grad)


def test_an_image_of_one_pixel_is_preserved() -> None:
    x = images(2, 1, 1)
    torch.testing.assert_close(gaussian_blur(x, scalar(1.0), "reflect"), x)


def test_a_sigma_that_is_not_a_number_shows() -> None:
    assert gaussian_blur(images(), scalar(math.nan)).isnan().all()
    mixed = gaussian_blur(images(), torch.tensor([math.nan, 0.5], dtype=torch.float64))
    assert mixed[0].isnan().all()
    assert mixed[1].isfinite().all()
