"""Recording of CUDA graphs, such that one that fails leaves everything usable.

PyTorch (2.6 to 2.11) leaves traces of a capture that fails: the generator of random numbers
takes itself to be captured still, the stream stays current, and the memory allocator waits for the
capture's end. Source: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch

from dentbench.compute.garbage import no_collection

T = TypeVar("T")

_failed: list[Any] = []
"""Graphs that failed: the allocator may still ask them which memory is theirs."""


class GraphCapture:
    """Records work on one device: on a stream of its own, into a pool of memory of its own.

    Use it as ``with capture: capture.rehearse(work); graph, results = capture.record(work)``.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()
        # One stream for all: libraries keep their workspace by stream, and it must not come from
        # the memory of a graph.
        self._stream = torch.cuda.Stream(device)
        self._contexts: list[Any] = []

    def __enter__(self) -> GraphCapture:
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        self._contexts = [torch.cuda.device(self.device), torch.cuda.stream(self._stream)]
        for context in self._contexts:
            context.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*error)
        torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def rehearse(self, work: Callable[[], object]) -> None:
        """Do the work once: libraries choose their algorithms before anything is recorded.

        Raises :class:`RuntimeError` for work that cannot be recorded: that draws random numbers,
        or waits for the GPU.
        """
        generator = torch.cuda.default_generators[self.device.index]
        before = generator.get_offset(), torch.get_rng_state()
        with _no_waiting():
            work()
        if generator.get_offset() != before[0] or not torch.equal(torch.get_rng_state(), before[1]):
            raise RuntimeError("it draws random numbers")

    def record(self, work: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """Return a graph of the work, and the tensors that hold its results after every replay."""
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # present garbage goes now: the end of a graph breaks a capture
        with _own_generator(self.device), no_collection():
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    results = work()
            except BaseException:
                self._end(graph)
                raise
        return graph, results

    def _end(self, graph: torch.cuda.CUDAGraph) -> None:
        _failed.append(graph)
        with suppress(Exception):  # newer versions may do so themselves
            torch._C._cuda_endAllocateToPool(self.device.index, self._pool)
            torch._C._cuda_releasePool(self.device.index, self._pool)


@contextmanager
def _own_generator(device: torch.device) -> Iterator[None]:
    """Record with a copy of the generator's state: a capture that fails makes it unusable."""
    generator: Any = torch.cuda.default_generators[device.index]
    state = generator.graphsafe_get_state()
    generator.graphsafe_set_state(generator.clone_state())
    try:
        yield
    finally:
        generator.graphsafe_set_state(state)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Let operations that wait for the GPU fail inside the ``with`` block."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is new
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
