"""What dent does between convolutions, by code in C: each in one pass over the memory.

It is what :mod:`dentbench.adapt.scale_shift` and :mod:`dentbench.adapt.optimizers` do by several of
PyTorch's operations, which say what is right.
Between convolutions nothing is in a processor's caches, PyTorch's own code neither: there an
operation on few numbers takes some four times as long as when it is repeated.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from dentbench.compute.cpu_kernels import c_library
from dentbench.compute.cpu_kernels.c_library import LANES, is_dense, is_plain, pointer

_log = logging.getLogger(__name__)

SOURCE: Final = Path(__file__).with_suffix(".c")

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
_DOUBLE = ctypes.c_double


class Fused:
    """The functions of the C file, with tensors for pointers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward, self._backward = library.forward, library.backward
        self._forward.argtypes = [_POINTER] * 5 + [_SIZE] * 5 + [_INT] * 2
        self._backward.argtypes = [_POINTER] * 9 + [_SIZE] * 5 + [_INT]
        self._adamod = library.adamod
        self._adamod.argtypes = [_POINTER] * 9 + [_SIZE] * 2 + [_DOUBLE] * 5 + [_INT]
        for function in (self._forward, self._backward, self._adamod):
            function.restype = None

    def forward(
        self, x: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None, rectified: bool
    ) -> Tensor:
        """Return ``x`` times ``scale`` plus ``shift``, plus ``other``; if wanted, the ReLU."""
        y = torch.empty_like(x)
        images, channels, height, width = x.shape
        self._forward(
            *map(pointer, (x, scale, shift, other, y)),
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
            *map(pointer, (grad, y, x, scale, shift, to_x, to_other, to_scale, to_shift)),
            scale.stride(0),
            0 if shift is None else shift.stride(0),
            *(images, height * width, channels, torch.get_num_threads()),
        )
        if of_other and not is_relu:
            to_other = grad
        return to_x, to_scale if of_scale else None, to_shift if of_shift else None, to_other

    def adamod(
        self,
        grad: Tensor,
        averages: tuple[Tensor, ...],
        lr: Tensor,
        correction: float,
        settings: tuple[float, float, float, float],
    ) -> tuple[Tensor, ...]:
        """Return AdaMod's change and its moving averages, of the shape of ``grad``, (P,) or (B, P).

        ``averages``: before it, of the gradient, its square and the rate. ``lr`` (P,), each to be
        multiplied by ``correction``. ``settings``: beta1, beta2, beta3 and eps.
        """
        found = tuple(torch.empty_like(grad) for _ in range(4))
        rows, count = grad.numel() // len(lr), len(lr)
        pointers = map(pointer, (grad, *averages, lr, *found))
        self._adamod(*pointers, rows, count, correction, *settings, torch.get_num_threads())
        return found


def fused(x: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None) -> Fused | None:
    """Return the code in C, where there is any and it can work on these tensors."""
    library = c_library.library(SOURCE)
    if library is None or x.shape[1] % LANES or not is_dense(x):
        return None
    if other is not None and not (is_dense(other) and other.shape == x.shape):
        return None
    return _right(library) if _is_row(scale, x) and _is_row(shift, x) else None


def fused_update(grad: Tensor, averages: Sequence[Tensor], lr: Tensor | float) -> Fused | None:
    """Return the same, where it can make an update; ``averages`` are of the shape of ``grad``."""
    library = c_library.library(SOURCE)
    if library is None or not isinstance(lr, Tensor) or grad.shape[-1:] != lr.shape:
        return None
    dense = all(is_plain(one) and one.is_contiguous() for one in (grad, *averages, lr))
    return _right(library) if dense else None


@cache
def _right(library: ctypes.CDLL) -> Fused | None:
    """Return the functions of a library, if they compute the formulas: compilers differ."""
    found = Fused(library)
    for one, right in chain(_scaled(found), _updated(found)):
        if one is None or not torch.allclose(one.double(), right.double(), rtol=1e-4, atol=1e-4):
            _log.warning("%s computes other values here; it is done without", SOURCE.name)
            return None
    return found


def _scaled(code: Fused) -> Iterator[tuple[Tensor | None, Tensor]]:
    """Yield what the code makes of some numbers, and what is right."""
    x, other, grad = torch.linspace(-3, 3, 3 * LANES * 12).reshape(3, 1, LANES, 3, 4)
    x, other, grad = (
        one.contiguous(memory_format=torch.channels_last) for one in (x, other.flip(1), grad.sin())
    )
    scale, shift = torch.linspace(-1, 1, 2 * LANES).reshape(2, 1, LANES, 1, 1)
    for added in (other, None):
        y = code.forward(x, scale, shift, added, True)
        of_y, of_shift = (None, shift) if added is None else (y, None)
        answers = (y, *code.backward(grad, x, scale, of_y, of_shift, (True,) * 4))
        let_through = grad * (y > 0)
        sums = ((let_through * one).sum((2, 3), True) for one in (x, torch.ones_like(x)))
        right = (x * scale + shift + (0 if added is None else added)).relu()
        yield from zip(answers, (right, let_through * scale, *sums, let_through), strict=True)


def _updated(code: Fused) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the same of an update: its change and the moving averages."""
    grad, mean, square, rate = torch.linspace(-1, 1, 4 * 2 * (LANES + 1)).reshape(4, 2, LANES + 1)
    square, rate, lr = square.abs(), rate.abs(), torch.linspace(0.1, 1, LANES + 1)
    beta1, beta2, beta3, eps = settings = 0.9, 0.99, 0.6, 1e-8
    answers = code.adamod(grad, (mean, square, rate), lr, 0.5, settings)
    mean = beta1 * mean + (1 - beta1) * grad
    square = beta2 * square + (1 - beta2) * grad**2
    current = 0.5 * lr / (square.sqrt() + eps)
    rate = beta3 * rate + (1 - beta3) * current
    formula = (-torch.minimum(current, rate) * mean, mean, square, rate)
    yield from zip(answers, formula, strict=True)


def _is_row(scale: Tensor, x: Tensor) -> bool:
    return (
        type(scale) is Tensor
        and scale.dtype == torch.float32
        and scale.shape == (*x.shape[:2], 1, 1)
        and scale.stride(1) == 1
    )
