"""Convolutions 3x3 with fewer products: Winograd's algorithm F(2x2, 3x3), by code in C.

Four outputs take 16 products for each channel instead of 36, and errors are no larger than those of
PyTorch's own convolutions in float32, which on processors make all of them. Convolutions are most
of what an adaptation takes there. Source: Lavin and Gray 2016, https://arxiv.org/abs/1509.09308.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from dentbench.engine import native
from dentbench.engine.native import LANES, is_dense, pointer
from dentbench.engine.remembered import key_of, remembered
from dentbench.engine.timing import least_seconds, work_on

_log = logging.getLogger(__name__)

SOURCE: Final = Path(__file__).with_suffix(".c")

TILES: Final = 16
"""How many tiles of 2x2 outputs are computed together: with fewer there is little to gain."""

FILE: Final = "convolutions.json"
"""What is remembered, beside the code: whether this is faster, by machine."""

ROUNDS: Final = 15
SECONDS: Final = 1.0
"""How often it is timed, and after how long no further round begins."""

CLEARLY: Final = 0.9
"""It must take at most this part of the time of PyTorch's own."""

_SUMS: Final = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]).double()
"""What three weights in a row are added up to: G of the paper."""

_wanted = False


def use(wanted: bool) -> None:
    """Say whether this process computes convolutions so, where it can."""
    global _wanted
    _wanted = wanted


def is_faster(network: nn.Module, folder: Path) -> bool:
    """Return whether a network's convolutions are clearly faster so on this machine.

    ``network``: one whose weights need no gradient. ``folder``: where code in C is kept. One
    convolution and its gradient are timed once, and what was found is remembered there, since the
    last bits depend on it. False without such code, where nothing can be remembered, and for a
    network of other convolutions. The code is made for AVX-512: by AVX2 alone it took 3 to 28 times
    as long as PyTorch's own.
    """
    convolutions = (one for one in network.modules() if isinstance(one, nn.Conv2d))
    if not any(map(_is_made_for, convolutions)):
        return False
    with native.building_in(folder), torch.random.fork_rng():
        if _code() is None:
            return False
        layer = nn.Conv2d(64, 64, 3, padding=1, bias=False).requires_grad_(False)
        layer = layer.to(memory_format=torch.channels_last)
        images = torch.rand(32, 64, 16, 16).contiguous(memory_format=torch.channels_last)
        key = key_of(layer, images.device, tuple(images.shape[1:]))

        def find() -> bool:
            works = [work_on(one, images) for one in (_Always(layer), layer)]
            ours, pytorch = least_seconds(works, ROUNDS, SECONDS)
            _log.debug("convolutions %.5f s, PyTorch's own %.5f s", ours, pytorch)
            return ours <= CLEARLY * pytorch

        try:
            return bool(remembered(folder / FILE, key, find, lambda one: isinstance(one, bool)))
        except OSError as error:  # no place to remember it
            _log.debug("whether convolutions are faster is not known: %s", error)
            return False


class Convolution:
    """Computes what a layer does, by Winograd's algorithm where that is wanted and can be.

    It can be where the layer has a 3x3 kernel, a stride and padding of 1, no bias, and numbers of
    channels that are multiples of :data:`~dentbench.engine.native.LANES`; where its weights need no
    gradient; and for images in float32 and channels_last, on a processor.
    Differentiable any number of times.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = layer
        self._known: tuple[Tensor, int, _Kernel] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the layer's answer to ``x`` (B, C, H, W)."""
        return self.quickly(x) if _wanted and self.can(x) else nn.Conv2d.forward(self.layer, x)

    def can(self, x: Tensor) -> bool:
        """Tell whether ``x`` (B, C, H, W), the layer and this machine are such that it can be."""
        weight = self.layer.weight
        return (
            is_dense(x)
            and _is_made_for(self.layer)
            and x.shape[1] == weight.shape[1]
            and _tiles(x) >= TILES
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and _code() is not None
        )

    def quickly(self, x: Tensor) -> Tensor:
        """Return the answer to ``x`` by Winograd's algorithm."""
        weight = self.layer.weight
        known, version, kernel = self._known or (None, 0, None)
        if known is not weight or version != weight._version or kernel is None:
            kernel = _kernel_of(weight)
            self._known = weight, weight._version, kernel
        y: Tensor = _Convolved.apply(x, kernel)
        return y

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what was made of the weights: it is made again where it is needed."""
        return {**self.__dict__, "_known": None}


class _Always(Convolution):
    """The same, wanted or not."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.quickly(x)


@dataclass(frozen=True, eq=False)
class _Kernel:
    """Sums of a convolution's weights, and of those of its gradient; 32/9 of the weights' memory.

    The gradient of its images is a convolution too: from its outputs to its inputs, by the same
    weights in opposite order.
    """

    sums: Tensor
    of_gradient: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> _Kernel:
        """Return that of weights (outputs, inputs, 3, 3)."""
        weight = weight.detach()
        return cls(sums_of_weights(weight), sums_of_weights(weight.transpose(0, 1).flip(2, 3)))

    @property
    def gradient(self) -> _Kernel:
        return _Kernel(self.of_gradient, self.sums)


_kernels: WeakValueDictionary[tuple[int, bytes], _Kernel] = WeakValueDictionary()


def _kernel_of(weight: Tensor) -> _Kernel:
    """Return what was made of the same weights before: defenses have copies of one network."""
    values = weight.detach().contiguous().numpy().data
    key = len(weight), hashlib.sha256(values).digest()
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _kernels[key] = _Kernel.of(weight)
    return kernel


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: _Kernel) -> Tensor:
        ctx.kernel = kernel
        code = _code()
        assert code is not None
        return code(x, kernel.sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        grad = grad.contiguous(memory_format=torch.channels_last)
        return _Convolved.apply(grad, ctx.kernel.gradient), None


def sums_of_weights(weight: Tensor) -> Tensor:
    """Return what the code in C multiplies by, of weights (outputs, inputs, 3, 3), in its order."""
    outputs, inputs = weight.shape[:2]
    at_a_time = LANES if outputs % (2 * LANES) else 2 * LANES
    sums = torch.einsum("yi,xj,ocij->oyxc", _SUMS, _SUMS, weight.double()).float()
    sums = sums.reshape(outputs // at_a_time, at_a_time, len(_SUMS) ** 2, inputs)
    return sums.permute(0, 2, 3, 1).contiguous()


class _Code:
    """The function of the C file, with tensors for pointers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        size, address = ctypes.c_ssize_t, ctypes.c_void_p
        self._room, self._convolve = library.room, library.convolve
        self._room.argtypes, self._room.restype = [size], size
        self._convolve.argtypes = [*[address] * 4, *[size] * 5, ctypes.c_int]
        self._convolve.restype = None

    def __call__(self, x: Tensor, sums: Tensor) -> Tensor:
        images, inputs, height, width = x.shape
        outputs, threads = len(sums) * sums.shape[-1], torch.get_num_threads()
        shape = images, outputs, height, width
        y = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        work = x.new_empty(threads * self._room(inputs))
        tensors = map(pointer, (x, sums, y, work))
        self._convolve(*tensors, images, height, width, inputs, outputs, threads)
        return y


def _tiles(x: Tensor) -> int:
    images, _, height, width = x.shape
    return images * ((height + 1) // 2) * ((width + 1) // 2)


def _is_made_for(layer: nn.Conv2d) -> bool:
    """Tell whether the code can do what a layer does; a layer may change."""
    weight = layer.weight
    return (
        layer.bias is None
        and weight.shape[2:] == (3, 3)
        and layer.stride == layer.padding == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.groups == 1
        and layer.in_channels % LANES == layer.out_channels % LANES == 0
        and (weight.device.type, weight.dtype) == ("cpu", torch.float32)
        and not weight.requires_grad
        and not weight.is_inference()  # whether it was changed is not known then
    )


def _code() -> _Code | None:
    """Return the code in C, if there is any and it is right."""
    library = native.library(SOURCE)
    return None if library is None else _right(library)


@cache
def _right(library: ctypes.CDLL) -> _Code | None:
    """Return the function of a library, if it computes convolutions: compilers differ."""
    code = _Code(library)
    for inputs, outputs in ((LANES, 2 * LANES), (2 * LANES, LANES)):
        x = torch.linspace(-3, 3, 2 * inputs * 5 * 7).sin().reshape(2, inputs, 5, 7)
        weight = torch.linspace(-1, 1, outputs * inputs * 9).cos().reshape(outputs, inputs, 3, 3)
        x = x.contiguous(memory_format=torch.channels_last)
        found = code(x, sums_of_weights(weight))
        right = nn.functional.conv2d(x.double(), weight.double(), padding=1)
        if not torch.allclose(found.double(), right, rtol=1e-4, atol=1e-4):
            _log.warning("%s computes other values here; it is done without", SOURCE.name)
            return None
    return code
