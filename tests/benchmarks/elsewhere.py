"""Works in a process of their own, as their users would run them; they take turns with ours.

A process that keeps the memory it frees (:func:`dentbench.compute.malloc.keep_freed_memory`) lets
everything in it use that. What speed is compared with runs as PyTorch comes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from tests.benchmarks.pairs import Work


def _serve(asked: Connection, make: Callable[..., dict[str, Work]], given: tuple[Any, ...]) -> None:
    works = make(*given)
    asked.send(list(works))
    while name := asked.recv():
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

    def ask(name: str) -> None:
        here.send(name)
        here.recv()

    try:
        yield {name: lambda name=name: ask(name) for name in here.recv()}
    finally:
        here.send("")
        process.join()
