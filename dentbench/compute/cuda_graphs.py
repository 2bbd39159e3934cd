"""Whole adaptations as CUDA graphs: thousands of small launches become one.

A graph repeats what was recorded, in the same memory, without Python: so the images must have one
shape, nothing may depend on a value, and passes are counted as they were when it was recorded.
Source: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""Maps images (B, C, H, W) to tensors, by the same operations whenever the shape is the same."""

OFTEN: Final = 3
"""A shape is recorded when it is asked for so often; survivors of an attack come in many shapes."""

MOST: Final = 2
"""How many shapes are recorded: each keeps the memory that the work takes."""

TOLERANCE: Final = 1e-3
"""How far, on average, a recording may be from the work itself, relative to its mean size."""


_all: weakref.WeakSet[Captured] = weakref.WeakSet()


class Counts(Protocol):
    """Counts single-image passes; see :class:`~dentbench.attacks.views.CallCounter`."""

    forwards: int
    backwards: int

    def forward(self, images: int) -> None:
        """Count forward passes."""

    def backward(self, images: int) -> None:
        """Count backward passes."""


def counted(work: Work, x: Tensor, counter: Counts) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
    """Return what some work finds for images, and its forward and backward passes."""
    forwards, backwards = counter.forwards, counter.backwards
    found = work(x)
    return found, (counter.forwards - forwards, counter.backwards - backwards)


def forget_recordings() -> None:
    """Give back the memory that all recordings hold; what is asked for again is recorded anew."""
    for one in _all:
        one.forget()


class Captured:
    """Does ``work``, and from the third time on by a recording, for the shapes that come most.

    ``record`` makes of some work and images what repeats the work on other images. A recording
    that fails, or that finds something else than the work itself, is dropped and a warning says
    so; there is no other one then.
    """

    def __init__(
        self, work: Work, counter: Counts, record: Callable[[Work, Tensor], Work] | None = None
    ) -> None:
        self.work = work
        self.counter = counter
        self._record = record or CudaGraph
        self._asked: Counter[tuple[object, ...]] = Counter()
        self._recordings: dict[tuple[object, ...], tuple[Work, int, int]] = {}
        self._given_up = False
        _all.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave recordings behind: they belong to this work."""
        return {**self.__dict__, "_asked": Counter(), "_recordings": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a copy."""
        self.__dict__.update(state)
        _all.add(self)

    def forget(self) -> None:
        """Drop all recordings."""
        self._asked.clear()
        self._recordings.clear()

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the work finds for images (B, C, H, W)."""
        kind = (tuple(x.shape), x.dtype, x.stride())
        if kind in self._recordings:
            replay, forwards, backwards = self._recordings[kind]
            found = replay(x)
            self.counter.forward(forwards)
            self.counter.backward(backwards)
            return found
        found, passes = counted(self.work, x, self.counter)
        self._asked[kind] += 1
        if self._asked[kind] == OFTEN and len(self._recordings) < MOST and not self._given_up:
            self._try(kind, x, found, passes)
        return found

    def _try(
        self,
        kind: tuple[object, ...],
        x: Tensor,
        right: tuple[Tensor, ...],
        passes: tuple[int, int],
    ) -> None:
        """Record the work, and keep the recording if it finds what is right."""
        before = self.counter.forwards, self.counter.backwards
        try:
            with torch.random.fork_rng():
                replay = self._record(self.work, x)
                found = replay(x)
            if not all(_is_close(*pair) for pair in zip(found, right, strict=True)):
                raise RuntimeError("it finds other values")
            self._recordings[kind] = (replay, *passes)
        except Exception as error:  # whatever it is: the work itself has just been done
            self._given_up = True
            reason = (str(error) or type(error).__name__).splitlines()[0]
            _log.warning("adaptation is not recorded as a CUDA graph: %s", reason)
        finally:
            # Trying it was no pass of the run's.
            self.counter.forwards, self.counter.backwards = before


def _is_close(one: Tensor, other: Tensor) -> bool:
    # On average: an optimizer's step turns on the sign of gradients that are nearly zero.
    return bool((one - other).abs().mean() <= TOLERANCE * other.abs().mean() + 1e-6)


class CudaGraph:
    """Some work recorded for images of one shape; called with others of it, it repeats the work."""

    def __init__(self, work: Work, x: Tensor) -> None:
        self._x = x.clone()
        # One stream for both, on the images' own device: libraries keep their workspace by stream,
        # and it must not come from the memory of the graph.
        with torch.cuda.device(x.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                work(self._x)  # libraries choose their algorithms before anything is recorded
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream):
                self._found = work(self._x)

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return copies: the next call writes into the same memory."""
        self._x.copy_(x)
        self._graph.replay()
        return tuple(one.clone() for one in self._found)
