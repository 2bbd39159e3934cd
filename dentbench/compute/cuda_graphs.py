"""Whole adaptations as CUDA graphs: thousands of small launches become a single launch.

A graph repeats its recording, in the same memory, without Python: so the images must have one
shape, nothing may depend on a value, and passes are counted as they were when it was recorded.
Source: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from dentbench.compute.graph_capture import GraphCapture
from dentbench.compute.precision import arithmetic
from dentbench.errors import first_line

_log = logging.getLogger(__name__)

R = TypeVar("R")

Work: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""Maps images (B, C, H, W) to tensors, by the same operations whenever the shape is the same."""

OFTEN: Final = 3
"""A shape is recorded when it is asked for so often; survivors of an attack come in many shapes."""

MOST: Final = 2
"""How many shapes are recorded: each keeps the memory that the work takes."""

IN_A_ROW: Final = 10
"""A shape that comes so often in a row takes the place of the one not asked for longest."""

TOLERANCE: Final = 1e-3
"""How far, on average, a recording may be from the work itself, relative to its mean size."""


_all: weakref.WeakSet[Recordings[Any]] = weakref.WeakSet()

_stopped = False
"""Whether memory ran out in this process."""


class Counts(Protocol):
    """Counts single-image passes; see :class:`~dentbench.attacks.counting.CallCounter`."""

    forwards: int
    backwards: int

    def forward(self, images: int) -> None:
        """Count forward passes."""

    def backward(self, images: int) -> None:
        """Count backward passes."""


def counted(work: Work, x: Tensor, counter: Counts) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
    """Return the result of some work on images, and its forward and backward passes."""
    forwards, backwards = counter.forwards, counter.backwards
    results = work(x)
    return results, (counter.forwards - forwards, counter.backwards - backwards)


def stop_recording() -> None:
    """Give back the memory that all recordings hold, and record nothing more in this process.

    A recording holds the memory of the work beside the work's own, so where memory ran out it is
    better spent on more images at a time.
    """
    global _stopped
    _stopped = True
    for recordings in _all:
        recordings.forget()


class _Weights:
    """The weights of a module as they are now, held so that their memory stays theirs."""

    def __init__(self, module: nn.Module) -> None:
        self._held = [
            (owner, name, tensor, _version(tensor), tensor.data_ptr())
            for part in module.modules()
            for owner in (part._parameters, part._buffers)
            for name, tensor in owner.items()
            if tensor is not None
        ]

    def same(self) -> bool:
        """Return whether none was changed, moved or replaced."""
        return all(
            owner.get(name) is tensor and _version(tensor) == version and tensor.data_ptr() == place
            for owner, name, tensor, version, place in self._held
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class Recordings(Generic[R]):
    """The recordings of one work, by the kind of images that it is shown.

    ``module``: whose weights the work computes with; when one of them changes all recordings are
    dropped. ``name``: of the work, in the warning when a recording fails; no other is made then.
    """

    def __init__(self, module: nn.Module, counter: Counts, name: str) -> None:
        self._module = module
        self._counter = counter
        self._name = name
        self._weights: _Weights | None = None
        self._given_up = False
        self._empty()
        _all.add(self)

    def _empty(self) -> None:
        self._asked: Counter[Hashable] = Counter()
        self._kept: OrderedDict[Hashable, tuple[R, tuple[int, int]]] = OrderedDict()
        self._row: tuple[Hashable, int] = (None, 0)

    def __len__(self) -> int:
        return len(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        """Leave recordings behind: they belong to these weights."""
        state = {**self.__dict__, "_asked": Counter(), "_kept": OrderedDict()}
        return {**state, "_row": (None, 0), "_weights": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a copy."""
        self.__dict__.update(state)
        _all.add(self)

    def forget(self) -> None:
        """Drop all recordings."""
        self._empty()

    def find(self, kind: Hashable) -> tuple[R, tuple[int, int]] | None:
        """Return the recording of a kind and its forward and backward passes, if there."""
        if self._kept and not (self._weights and self._weights.same()):
            self.forget()
        if kind not in self._kept:
            return None
        self._kept.move_to_end(kind)
        self._row = (kind, 0)
        return self._kept[kind]

    def due(self, kind: Hashable) -> bool:
        """Take note that a kind without a recording was asked for; return whether to record it."""
        self._asked[kind] += 1
        self._row = (kind, self._row[1] + 1 if self._row[0] == kind else 1)
        if self._given_up or _stopped:
            return False
        if len(self._kept) < MOST:
            return self._asked[kind] >= OFTEN
        return self._row[1] >= IN_A_ROW

    def keep(self, kind: Hashable, recording: R, passes: tuple[int, int]) -> None:
        """Keep a recording and its forward and backward passes; drop one where there are MOST."""
        if not self._kept:
            self._weights = _Weights(self._module)
        self._kept[kind] = recording, passes

    def make_room(self) -> None:
        """Drop the recording that was not asked for longest, if there are as many as may be."""
        if len(self._kept) >= MOST:
            self._kept.popitem(last=False)

    @contextmanager
    def attempt(self, x: Tensor) -> Iterator[None]:
        """Try to record inside the ``with`` block: it counts no passes and draws no numbers."""
        before = self._counter.forwards, self._counter.backwards
        self.make_room()
        try:
            with torch.random.fork_rng([x.device] if x.is_cuda else []):
                yield
        except Exception as error:  # whatever it is: the work itself has just been done
            self._given_up = True
            _log.warning("%s is not recorded as a CUDA graph: %s", self._name, first_line(error))
        finally:
            self._counter.forwards, self._counter.backwards = before


class Captured:
    """Does ``work``, and from the third time on by a recording, for the shapes that come most.

    ``module``: whose weights it computes with. ``record`` makes of some work and images an
    object that repeats the work on other images. A recording that fails, or whose
    results differ from the work's own, is dropped with a warning; no other is made then.
    """

    def __init__(
        self,
        work: Work,
        module: nn.Module,
        counter: Counts,
        record: Callable[[Work, Tensor], Work] | None = None,
    ) -> None:
        self.work = work
        self.counter = counter
        self.recordings: Recordings[Work] = Recordings(module, counter, "adaptation")
        self._record = record or CudaGraph

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the result of the work for images (B, C, H, W)."""
        kind = (kind_of(x), arithmetic())
        recorded = self.recordings.find(kind)
        if recorded is not None:
            replay, (forwards, backwards) = recorded
            results = replay(x)
            self.counter.forward(forwards)
            self.counter.backward(backwards)
            return results
        results, passes = counted(self.work, x, self.counter)
        if self.recordings.due(kind):
            with self.recordings.attempt(x):
                replay = self._record(self.work, x)
                require_close(replay(x), results)
                self.recordings.keep(kind, replay, passes)
        return results


def kind_of(x: Tensor | None) -> Hashable:
    """Return the key of a recording: shape, type, strides and device."""
    return None if x is None else (tuple(x.shape), x.dtype, x.stride(), x.device)


def require_close(results: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> None:
    """Raise for a recording whose results are not those of the work itself."""
    # On average: an optimizer's step turns on the sign of gradients that are nearly zero.
    for tensor, other in zip(results, right, strict=True):
        if not (tensor - other).abs().mean() <= TOLERANCE * other.abs().mean() + 1e-6:
            raise RuntimeError("it finds other values")


class CudaGraph:
    """Some work recorded for images of one shape; called with others of it, it repeats the work."""

    def __init__(self, work: Work, x: Tensor) -> None:
        self._x = x.clone()
        with GraphCapture(x.device) as capture:
            capture.rehearse(lambda: work(self._x))
            self._graph, self._results = capture.record(lambda: work(self._x))

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return copies: the next call writes into the same memory."""
        self._x.copy_(x)
        self._graph.replay()
        return tuple(tensor.clone() for tensor in self._results)
