"""Keep a defense's random numbers apart from the attack's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dentbench.attacks.base import OFFERS, Classifier


class SeededDefense:
    """A defense whose own random numbers are kept apart from the attack's.

    The defense draws from its own stream, which ``seed`` starts; the global stream, which the
    attacks reseed, is put back after every call. Its ``adapt``, ``predict`` and ``unroll`` are
    the defense's own, treated likewise, where it has them.
    """

    def __init__(self, defense: Classifier, seed: int, device: torch.device) -> None:
        self.defense = defense
        self.device = device
        with self._forked():
            if self._on_gpu:
                torch.manual_seed(seed)
            else:  # without a note to every kind of GPU, which takes longer than a short answer
                torch.default_generator.manual_seed(seed)
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

    def _in_own_stream(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._forked():
            self._set(self._states)
            answer = function(*args, **kwargs)
            self._states = self._get()
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
