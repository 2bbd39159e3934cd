"""Networks compiled by torch.compile, which falls back to what it was given.

Compiling fuses the work between convolutions, which should pay on GPUs. On two processor cores an
update of a ResNet-18 took 0.95 of its time, of the embedded networks 0.8 to 0.9; compiling them
took longer than a short run. On a GPU nothing was measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor, nn

from dentbench.compute.answers import answers

_log = logging.getLogger(__name__)

RECOMPILATIONS: Final = 64
"""How many variants of a network there may be: with and without gradients, of sizes, of parameters.

PyTorch's own limit is 8."""

TOLERANCE: Final = 1e-3
"""How far logits and gradients may be from the plain ones, relative to the largest of them."""

_plainly: ContextVar[bool] = ContextVar("nothing is run compiled", default=False)


@contextmanager
def plainly() -> Iterator[None]:
    """Run nothing compiled inside the ``with`` block, in this context only.

    Compiled networks have no gradients of gradients.
    """
    token = _plainly.set(True)
    try:
        yield
    finally:
        _plainly.reset(token)


class Compiled(nn.Module):
    """A network that is compiled when it is first run; each copy is compiled for itself.

    Where that fails the network is run as it is, and a warning says so once.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._failed = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is compiled: it belongs to this network."""
        return {**self.__dict__, "_compiled": None}

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        if self._failed or _plainly.get():
            logits: Tensor = self.network(x)
            return logits
        if self._compiled is None:
            self._compiled = _compile(self.network)
        try:
            return self._run(self._compiled, x)
        except Exception as error:
            # What is wrong with the network or the memory, and not with compiling, is raised here.
            logits = self.network(x)
            self._failed = True
            _warn(str(error) or type(error).__name__)
            return logits

    @staticmethod
    def _run(compiled: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run it in one grad mode always: another mode would be compiled for itself."""
        if torch.is_grad_enabled():
            return compiled(x)
        with torch.enable_grad():
            return compiled(x.detach()).detach()


def _compile(network: nn.Module) -> Callable[[Tensor], Tensor]:
    import torch._dynamo  # late: it takes seconds

    settings = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # its names in newer and older torch
        if hasattr(settings, name):
            setattr(settings, name, max(RECOMPILATIONS, getattr(settings, name)))
    compiled: Callable[[Tensor], Tensor] = torch.compile(network)
    return compiled


def compiled_if_right(network: nn.Module, images: Tensor) -> nn.Module:
    """Return the network compiled, if its logits and gradient are those of the network itself.

    ``images`` (B, C, H, W): some to try it on. If it cannot be compiled, or if a value is further
    off than :data:`TOLERANCE`, the network itself is returned, and a warning says why.
    """
    compiled = Compiled(network)
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            found, right = (answers(one, images) for one in (compiled, network))
    except Exception as error:
        _warn(str(error) or type(error).__name__)
        return network
    if compiled._failed:
        return network
    for one, other in zip(found, right, strict=True):
        if not (one - other).abs().max() <= TOLERANCE * other.abs().max():
            _warn("it computes other values then")
            return network
    return compiled


def _warn(reason: str) -> None:
    _log.warning("the network is not compiled (%s); it is run as it is", reason.splitlines()[0])
