"""Time the ways of computing a network, for the engine to choose by."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def work_on(network: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], None]:
    """Return the timed work: a forward, and the gradient of ``images`` (B, C, H, W)."""

    def forward_and_gradient() -> None:
        with torch.enable_grad():
            x = images.clone().requires_grad_()
            torch.autograd.grad(network(x.clone()).sum(), x)  # it may write into a copy
        if images.is_cuda:
            torch.cuda.synchronize(images.device)

    return forward_and_gradient


def least_seconds(works: Sequence[Callable[[], None]], rounds: int, limit: float) -> list[float]:
    """Return the least seconds of each work; they take turns after a round to warm up.

    The least: other work on the machine only ever adds to them. At most so many ``rounds``; after
    ``limit`` seconds no further one begins. Random numbers are as if nothing had been timed.
    """
    timings: list[list[float]] = [[] for _ in works]
    started = time.perf_counter()
    with torch.random.fork_rng():
        for turn in range(rounds + 1):
            if turn > 1 and time.perf_counter() - started > limit:
                break
            for work, seconds in zip(works, timings, strict=True):
                begun = time.perf_counter()
                work()
                if turn:
                    seconds.append(time.perf_counter() - begun)
    return [min(seconds) for seconds in timings]
