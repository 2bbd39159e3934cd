"""Remember the part of a network before its first affine parameter: it does not change.

Inside :func:`remembered` a convolution that runs before the first adapted layer is computed once:
shown the same input again, it hands out the same output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dentbench.containment import original


@dataclass
class _Memory:
    """``known``: input and output by layer; ``before``: whether no adapted layer ran as yet."""

    known: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    before: bool = True


_memory: ContextVar[_Memory | None] = ContextVar("outputs before the first layer", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Remember outputs inside the ``with`` block, in this context only."""
    token = _memory.set(_Memory())
    try:
        yield
    finally:
        _memory.reset(token)


def begin() -> None:
    """Say that the network is run from its start."""
    memory = _memory.get()
    if memory is not None:
        memory.before = True


def passed() -> None:
    """Say that an adapted layer is reached."""
    memory = _memory.get()
    if memory is not None:
        memory.before = False


class RememberingForward:
    """The forward of a convolution, which remembers where that is asked for."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = layer

    def __call__(self, input: Tensor) -> Tensor:
        """Return the convolution's answer, remembered where nothing has changed."""
        x = input  # the name is that of Conv2d's own argument
        memory = _memory.get()
        # Of an adapted layer, run in a thread perhaps, the input has a graph of its own.
        if memory is None or not memory.before or x.requires_grad:
            return self._convolve(x)
        shown, output = memory.known.get(id(self.layer), (None, None))
        if shown is None or output is None or not _same(shown, x):
            output = self._convolve(x)
            memory.known[id(self.layer)] = x, output
        return output

    def _convolve(self, x: Tensor) -> Tensor:
        y: Tensor = nn.Conv2d.forward(self.layer, x)
        return y


def _same(first: Tensor, second: Tensor) -> bool:
    # Comparing values would make the CPU wait for its GPU.
    same = original(first) is original(second)
    return same or (not second.is_cuda and torch.equal(first, second))


def convert(network: nn.Module) -> None:
    """Make the convolutions of ``network`` remember; hand in a copy.

    No other layer remembers: a layer that draws random numbers must draw new ones at every call.
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv2d):  # TorchScript's kind does not show its forward
            continue
        if type(module).forward is nn.Conv2d.forward and "forward" not in module.__dict__:
            # On the instance, so that the layer keeps its type, attributes and hooks.
            module.__dict__["forward"] = RememberingForward(module)
