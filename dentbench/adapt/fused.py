"""What :mod:`dentbench.adapt.scaling` does, by code in C: all of it in one pass over the memory."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from dentbench.engine import native

_log = logging.getLogger(__name__)

SOURCE: Final = Path(__file__).with_suffix(".c")

LANES: Final = 16
"""What the number of channels must be a multiple of: LANES of the code."""

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int


class Fused:
    """The functions of the C file, with tensors for pointers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward, self._backward = library.forward, library.backward
        self._forward.argtypes = [_POINTER] * 5 + [_SIZE] * 5 + [_INT] * 2
        self._backward.argtypes = [_POINTER] * 9 + [_SIZE] * 5 + [_INT]
        self._forward.restype = self._backward.restype = None

    def forward(
        self, x: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None, rectified: bool
    ) -> Tensor:
        """Return ``x`` times ``scale`` plus ``shift``, plus ``other``; if wanted, the ReLU."""
        y = torch.empty_like(x)
        images, channels, height, width = x.shape
        self._forward(
            *map(_pointer, (x, scale, shift, other, y)),
            *(scale.stride(0), shift.stride(0), images, height * width, channels),
            *(rectified, torch.get_num_threads()),
        )
        return y

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        scale: Tensor,
        y: Tensor | None,
        shift: Tensor | None,
        needs: tuple[bool, ...],
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, scale, shift and other, those that are needed.

        ``grad``: that of the output. Where it is a ReLU ``y`` is it, or ``shift`` what it was
        computed with and nothing added; both are None where it is none.
        """
        of_x, of_scale, of_shift, of_other = needs
        grad = grad.contiguous(memory_format=torch.channels_last)
        is_relu = y is not None or shift is not None
        to_x = torch.empty_like(x) if of_x else None
        to_other = torch.empty_like(x) if of_other and is_relu else None
        to_scale, to_shift = x.new_empty(scale.shape), x.new_empty(scale.shape)
        images, channels, height, width = x.shape
        self._backward(
            *map(_pointer, (grad, y, x, scale, shift, to_x, to_other, to_scale, to_shift)),
            scale.stride(0),
            0 if shift is None else shift.stride(0),
            *(images, height * width, channels, torch.get_num_threads()),
        )
        if of_other and not is_relu:
            to_other = grad
        return to_x, to_scale if of_scale else None, to_shift if of_shift else None, to_other


def fused(x: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None) -> Fused | None:
    """Return the code in C, where there is any and it can work on these tensors."""
    library = native.library(SOURCE)
    if library is None or x.shape[1] % LANES or not _is_dense(x):
        return None
    if other is not None and not (_is_dense(other) and other.shape == x.shape):
        return None
    return _right(library) if _is_row(scale, x) and _is_row(shift, x) else None


@cache
def _right(library: ctypes.CDLL) -> Fused | None:
    """Return the functions of a library, if they compute the formula: compilers differ."""
    found = Fused(library)
    x, other, grad = torch.linspace(-3, 3, 3 * LANES * 12).reshape(3, 1, LANES, 3, 4)
    x, other, grad = (
        one.contiguous(memory_format=torch.channels_last) for one in (x, other.flip(1), grad.sin())
    )
    scale, shift = torch.linspace(-1, 1, 2 * LANES).reshape(2, 1, LANES, 1, 1)
    for added in (other, None):
        y = found.forward(x, scale, shift, added, True)
        of_y, of_shift = (None, shift) if added is None else (y, None)
        answers = (y, *found.backward(grad, x, scale, of_y, of_shift, (True,) * 4))
        let_through = grad * (y > 0)
        sums = ((let_through * one).sum((2, 3), True) for one in (x, torch.ones_like(x)))
        right = (x * scale + shift + (0 if added is None else added)).relu()
        formula = (right, let_through * scale, *sums, let_through)
        for one, its in zip(answers, formula, strict=True):
            if one is None or not torch.allclose(one, its, rtol=1e-4, atol=1e-4):
                _log.warning("%s computes other values here; it is done without", SOURCE.name)
                return None
    return found


def _is_dense(x: Tensor) -> bool:
    """Tell whether these are numbers in memory, not what stands for some, as it should lie."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and x.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _is_row(scale: Tensor, x: Tensor) -> bool:
    return (
        type(scale) is Tensor
        and scale.dtype == torch.float32
        and scale.shape == (*x.shape[:2], 1, 1)
        and scale.stride(1) == 1
    )


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
