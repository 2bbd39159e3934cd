"""A Gaussian blur of images, differentiable in the images and in sigma, per batch or per image.

Filter, truncation and zero padding are those of the dynamic Gaussian of the same authors' other
paper (arXiv 1904.11487); one sigma per image, the other paddings, the cap at the image's size and
the treatment of sigma near zero and below it are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

IDENTITY_BELOW: Final = 0.025
"""Sigmas below this are the identity. Their nearest weight, exp(-1 / (2 sigma^2)) < exp(-800), is
zero even in double precision, so this changes no value; it only keeps 0 / 0 from appearing."""


def gaussian_blur(x: Tensor, sigma: Tensor, padding: str = "zeros") -> Tensor:
    """Return images ``x`` (B, C, H, W) blurred with a Gaussian of ``sigma`` pixels.

    ``sigma``: () for the batch or (B,) for the images, of the type of ``x``. The filter is
    separable and shared by the channels; see :func:`gaussian_weights` for its weights and size,
    which is each image's own. ``padding``: "zeros" (darkens the border), "reflect" (about the
    border pixels) or "replicate". Twice differentiable in both; sigma 0 is the identity.
    """
    rows, columns = (_matrix(sigma, size, padding) for size in x.shape[-2:])
    if sigma.ndim:
        rows, columns = rows[:, None], columns[:, None]
    return rows @ (x @ columns.mT)


def gaussian_weights(sigma: Tensor, limit: int) -> Tensor:
    """Return the weights exp(-k^2 / (2 sigma^2)), k = -half..half, normalized to sum 1.

    ``sigma`` (...); returns (..., 2 half + 1), with half that of the largest sigma, or on a GPU
    ``limit``; a smaller sigma's weights beyond its own half are zero. A sigma's half is
    max(1, ceil(2 |sigma|)), and at most ``limit``, one less than the image's size: no wider filter
    could reach another pixel.

    The weights depend on sigma^2 only, so a sigma that an optimizer takes below zero blurs as
    |sigma| does, smoothly, and can come back; clamping it would stop its gradient for good.
    Towards sigma 0 all derivatives vanish with the weights. They jump where 2 |sigma| passes a
    whole number, as in the source. A sigma that is not a number gives weights that are not.
    """
    halves = torch.ceil(2 * sigma.detach().abs()).nan_to_num(1.0).clamp(min=1).clamp(max=limit)
    # Asking a GPU for the largest would wait for it, and cannot be recorded as a CUDA graph.
    half = limit if sigma.is_cuda else int(halves.max())
    distances = torch.arange(-half, half + 1, dtype=sigma.dtype, device=sigma.device).abs()
    sigma, halves = sigma[..., None], halves[..., None]
    tiny = sigma.detach().abs() < IDENTITY_BELOW
    # Where it is tiny, 1 takes its place before the division, so no derivative meets 0 / 0.
    scaled = distances / torch.where(tiny, torch.ones_like(sigma), sigma)
    weights = torch.exp(-scaled.square() / 2) * (distances <= halves)
    weights = torch.where(tiny, (distances == 0).to(sigma.dtype), weights)
    return weights / weights.sum(-1, keepdim=True)


def _matrix(sigma: Tensor, size: int, padding: str) -> Tensor:
    """Return the blur along an axis of ``size`` pixels as a matrix (..., size, size).

    A product with a small dense matrix, unlike a convolution, costs the same for one sigma and
    for one per image, and holds every padding.
    """
    weights = gaussian_weights(sigma, size - 1)
    half = weights.shape[-1] // 2
    pixels = torch.arange(size, device=sigma.device)
    offsets = torch.arange(-half, half + 1, device=sigma.device)
    sources = _FOLDS[padding](pixels + offsets[:, None], size - 1)
    taps = (sources[..., None] == pixels).to(weights.dtype)  # (filter, to, from)
    matrix: Tensor = (weights @ taps.flatten(1)).unflatten(-1, (size, size))
    return matrix


def _zeros(place: Tensor, last: int) -> Tensor:
    del last
    return place  # an index outside is no pixel's


def _reflect(place: Tensor, last: int) -> Tensor:
    return last - (last - place.abs()).abs()


def _replicate(place: Tensor, last: int) -> Tensor:
    return place.clamp(0, last)


_FOLDS: Final[Mapping[str, Callable[[Tensor, int], Tensor]]] = MappingProxyType(
    {"zeros": _zeros, "reflect": _reflect, "replicate": _replicate}
)
"""Each padding: which pixel stands at a place in -last..2 last, the pixels being 0..last."""
