"""A scale and a shift for every image and channel, computed in few passes over the memory.

A large tensor does not fit a processor's cache, and every operation on it reads it from memory
anew. So on processors all that is done to some images is done before the next ones are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

PART: Final = 4 * 2**20
"""How many bytes of float32 to work on at a time: what a processor's cache holds."""


def scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ``x`` (B, C, H, W) times ``scale`` plus ``shift``, in the type of ``x``.

    ``scale`` and ``shift`` are (B, C, 1, 1).
    It is computed in the type of ``scale``, which is the wider one in mixed precision.
    Differentiable any number of times.
    """
    if torch.compiler.is_compiling():
        return _plain(x, scale, shift)
    y: Tensor = _Scaled.apply(x, scale, shift)
    return y


def _plain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, x, scale).to(x.dtype)


class _Scaled(torch.autograd.Function):
    """The same as :func:`_plain`, in parts, and with fewer operations than autograd's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        if x.dtype == scale.dtype:
            return _plain(x, scale, shift)
        y = torch.empty_like(x)
        for some in _parts(x):
            y[some] = _plain(x[some].to(scale.dtype), scale[some], shift[some])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (grad,) = grads
        x, scale = ctx.saved_tensors
        of_x, of_scale, of_shift = ctx.needs_input_grad
        whole = x.dtype == scale.dtype and _part(x) >= len(x)
        if whole or torch.is_grad_enabled():  # or a gradient of this gradient is wanted
            return (
                grad * scale if of_x else None,
                (grad * x).sum((2, 3), True) if of_scale else None,
                grad.sum((2, 3), True) if of_shift else None,
            )
        to_x = torch.empty_like(x) if of_x else None
        to_scale = torch.empty_like(scale) if of_scale else None
        to_shift = torch.empty_like(scale) if of_shift else None
        for some in _parts(x):
            part = grad[some].to(scale.dtype)
            if to_shift is not None:
                torch.sum(part, (2, 3), True, out=to_shift[some])
            if to_scale is not None:
                torch.sum(part * x[some].to(scale.dtype), (2, 3), True, out=to_scale[some])
            if to_x is not None and x.dtype == scale.dtype:
                torch.mul(part, scale[some], out=to_x[some])
            elif to_x is not None:  # another type is much slower as ``out``
                to_x[some] = part * scale[some]
        return to_x, to_scale, to_shift


def _part(x: Tensor) -> int:
    """Return how many images to take at a time: all where there is no processor's cache."""
    return max(1, PART // max(1, 4 * x.shape[1:].numel())) if x.is_cpu else len(x)


def _parts(x: Tensor) -> Iterator[slice]:
    size = _part(x)
    for start in range(0, len(x), size):
        yield slice(start, start + size)
