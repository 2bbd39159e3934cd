"""Keep a defense's random numbers apart from the attack's."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dentbench.attacks.base import OFFERS, Classifier


def seed_torch(seed: int, *, on_gpu: bool) -> None:
    """Seed torch's random numbers: those of the CPU, and where asked those of the GPUs.

    ``torch.manual_seed`` queues a call for each kind of GPU that is not there, with its stack
    trace: that takes longer than a short answer, and the queue is never emptied.
    """
    if on_gpu:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Draw the same numbers inside every block, and leave all streams as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            seed_torch(0, on_gpu=torch.cuda.is_available())
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class SeededDefense:
    """A defense whose own random numbers are kept apart from the attack's.

    The defense draws from its own stream, which ``seed`` starts; the global stream, which the
    attacks reseed, is put back after every call. Its ``adapt``, ``predict`` and ``unroll`` are
    the defense's own, treated likewise, where it has them. The streams of Python and NumPy take
    time to put back: the first call decides whether the defense draws from them.
    """

    def __init__(self, defense: Classifier, seed: int, device: torch.device) -> None:
        self.defense = defense
        self.device = device
        self._seed = seed
        self._draws_elsewhere: bool | None = None
        self._elsewhere: Any = None
        with self._forked():
            seed_torch(seed, on_gpu=self._on_gpu)
            self._states = self._get()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        logits: Tensor = self._in_own_stream(self.defense, x)
        return logits

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in OFFERS:
            raise AttributeError(name)
        return partial(self._in_own_stream, getattr(self.defense, name))

    def draw_as(self, other: SeededDefense) -> None:
        """Draw from here on the random numbers that ``other`` would draw next."""
        self._states = other._states
        self._draws_elsewhere = other._draws_elsewhere
        self._elsewhere = other._elsewhere

    def _in_own_stream(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._draws_elsewhere is not False:
            return self._in_all_streams(function, *args, **kwargs)
        with self._forked():
            self._set(self._states)
            answer = function(*args, **kwargs)
            self._states = self._get()
        return answer

    def _in_all_streams(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function that may draw from the streams of Python and NumPy too."""
        before = _elsewhere()
        try:
            with self._forked():
                self._set(self._states)
                if self._elsewhere is None:
                    random.seed(self._seed)
                    np.random.seed(self._seed)
                    self._elsewhere = _elsewhere()
                else:
                    _put_back(self._elsewhere)
                answer = function(*args, **kwargs)
                self._states = self._get()
                after = _elsewhere()
        finally:
            _put_back(before)
        if self._draws_elsewhere is None:
            self._draws_elsewhere = not _alike(after, self._elsewhere)
        self._elsewhere = after
        return answer

    @contextmanager
    def _forked(self) -> Iterator[None]:
        before = self._get()
        try:
            yield
        finally:
            self._set(before)

    def _get(self) -> tuple[Tensor, ...]:
        states = (torch.get_rng_state(),)
        return (*states, torch.cuda.get_rng_state(self.device)) if self._on_gpu else states

    def _set(self, states: tuple[Tensor, ...]) -> None:
        torch.set_rng_state(states[0])
        if self._on_gpu:
            torch.cuda.set_rng_state(states[1], self.device)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"


def _elsewhere() -> tuple[Any, Any]:
    """Return the states of Python's and of NumPy's stream."""
    return random.getstate(), np.random.get_state()


def _put_back(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])


def _alike(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> bool:
    same = ours[0] == theirs[0] and ours[1][2] == theirs[1][2]
    return same and bool(np.array_equal(ours[1][1], theirs[1][1]))
