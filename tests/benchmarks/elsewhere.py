"""Works in a process of their own, as their users would run them; they take turns with ours.

A process that keeps the memory it frees (:func:`dentbench.compute.malloc.keep_freed_memory`) lets
everything in it use that. What speed is compared with runs as PyTorch comes.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from tests.benchmarks.pairs import Work

CLOCK = "CPU seconds"
"""A request in place of a work: how much CPU time the process has used so far."""


@dataclass(frozen=True)
class Elsewhere:
    """A work that is done in another process when it is called here."""

    name: str
    process: Connection

    def __call__(self) -> None:
        """Let it be done, and wait for that."""
        self._ask(self.name)

    def cpu_seconds(self) -> float:
        """Return how much CPU time the other process has used so far."""
        return float(self._ask(CLOCK))

    def _ask(self, name: str) -> Any:
        self.process.send(name)
        return self.process.recv()


def _serve(asked: Connection, make: Callable[..., dict[str, Work]], given: tuple[Any, ...]) -> None:
    works = make(*given)
    asked.send(list(works))
    while name := asked.recv():
        if name == CLOCK:
            asked.send(time.process_time())
            continue
        works[name]()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        asked.send(None)


@contextmanager
def elsewhere(make: Callable[..., dict[str, Work]], *given: Any) -> Iterator[dict[str, Work]]:
    """Make works by ``make(*given)`` in a new process; each is done there when called here."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(there, make, given), daemon=True)
    process.start()
    there.close()

    try:
        yield {name: Elsewhere(name, here) for name in here.recv()}
    finally:
        here.send("")
        process.join()
