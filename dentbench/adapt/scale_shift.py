"""A scale and a shift for every image and channel, computed in few passes over the memory.

A large tensor does not fit a CPU's cache, and every operation on it reads it from memory anew. So
on CPUs all is done to some images before the next images are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor

PART: Final = 4 * 2**20
"""How many bytes of float32 to work on at a time: as many as a CPU's cache holds."""


def scaled(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    other: Tensor | None = None,
    *,
    rectified: bool = False,
) -> Tensor:
    """Return ``x`` (B, C, H, W) times ``scale`` plus ``shift``, in the type of ``x``.

    ``scale`` and ``shift`` are (B, C, 1, 1). ``other``, of the shape and the type of ``x``, is
    added to that. ``rectified``: of all that, the ReLU.
    It is computed in the type of ``scale``, which is the wider one in mixed precision.
    Differentiable any number of times.
    """
    y: Tensor = _Scaled.apply(x, scale, shift, other, rectified)
    return y


class _Scaled(torch.autograd.Function):
    """``relu(x * scale + shift + other)`` in parts, with fewer operations than autograd's own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None, rectified: bool
    ) -> Tensor:
        y: Tensor
        if x.dtype == scale.dtype and (_part(x) >= len(x) or (other is None and not rectified)):
            y = _follow(torch.addcmul(shift, x, scale), other, rectified)
        elif not x.is_cpu:
            y = _follow(_converted(torch.addcmul, x, shift, x, scale), other, rectified)
        else:
            y = torch.empty_like(x)
            for some in _parts(x):
                part = y[some]
                if x.dtype == scale.dtype:
                    torch.addcmul(shift[some], x[some], scale[some], out=part)
                else:  # another type is much slower as ``out``
                    part[:] = torch.addcmul(shift[some], x[some].to(scale.dtype), scale[some])
                _follow(part, None if other is None else other[some], rectified)
        ctx.save_for_backward(x, scale, y if rectified else None)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, scale, y = ctx.saved_tensors
        of_x, of_scale, of_shift, of_other, _ = ctx.needs_input_grad
        whole = x.dtype == scale.dtype and _part(x) >= len(x)
        if whole or torch.is_grad_enabled():  # or a gradient of this gradient is wanted
            grad = _let_through(grad, y)
            to_scale = (grad * x).sum((2, 3), True) if of_scale else None
            to_shift = grad.sum((2, 3), True) if of_shift else None
            # A tensor that only this function has seen is overwritten.
            own = y is not None and not of_other and not torch.is_grad_enabled()
            to_x = (grad.mul_(scale) if own else grad * scale) if of_x else None
            return to_x, to_scale, to_shift, grad if of_other else None, None
        if not x.is_cpu:
            return _mixed_gradients(_let_through(grad, y), x, scale, ctx.needs_input_grad)
        to_x = torch.empty_like(x) if of_x else None
        to_scale = torch.empty_like(scale) if of_scale else None
        to_shift = torch.empty_like(scale) if of_shift else None
        to_other = torch.empty_like(x) if of_other else None
        for some in _parts(x):
            part = _let_through(grad[some], None if y is None else y[some])
            if to_other is not None:
                to_other[some] = part
            part = part.to(scale.dtype)
            if to_shift is not None:
                torch.sum(part, (2, 3), True, out=to_shift[some])
            if to_scale is not None:
                torch.sum(part * x[some].to(scale.dtype), (2, 3), True, out=to_scale[some])
            if to_x is not None and x.dtype == scale.dtype:
                torch.mul(part, scale[some], out=to_x[some])
            elif to_x is not None:
                to_x[some] = part * scale[some]
        return to_x, to_scale, to_shift, to_other, None


def _converted(function: Callable[..., Tensor], x: Tensor, *args: Tensor) -> Tensor:
    """Return a function of wider numbers in the type of ``x``, by one pass on a GPU."""
    return function(*args, out=torch.empty_like(x))


def _mixed_gradients(
    grad: Tensor, x: Tensor, scale: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients where ``x`` is narrower than ``scale``: products narrow, sums wide."""
    of_x, of_scale, of_shift, of_other, _ = needs
    to_x = _converted(torch.mul, x, grad, scale) if of_x else None
    to_scale = (grad * x).sum((2, 3), True, dtype=scale.dtype) if of_scale else None
    to_shift = grad.sum((2, 3), True, dtype=scale.dtype) if of_shift else None
    return to_x, to_scale, to_shift, grad if of_other else None, None


def _follow(y: Tensor, other: Tensor | None, rectified: bool) -> Tensor:
    """Add and rectify ``y`` in place, after its scale and shift."""
    if other is not None:
        y.add_(other)
    return y.relu_() if rectified else y


def _let_through(grad: Tensor, y: Tensor | None) -> Tensor:
    """Return the gradient of a ReLU's input, by that of its output ``y``; None: no ReLU."""
    return grad if y is None else torch.ops.aten.threshold_backward.default(grad, y, 0)


def _part(x: Tensor) -> int:
    """Return how many images to take at a time: all where there is no CPU cache."""
    return max(1, PART // max(1, 4 * x.shape[1:].numel())) if x.is_cpu else len(x)


def _parts(x: Tensor) -> Iterator[slice]:
    size = _part(x)
    for start in range(0, len(x), size):
        yield slice(start, start + size)
