"""Report how far an attack is, to a callback where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, kw_only=True)
class AttackBegan:
    """An attack begins on the images of a batch that are still right.

    ``attack``: its name. ``left``: how many are still right, of ``images``.
    """

    attack: str
    left: int
    images: int


Listener: TypeAlias = Callable[[AttackBegan], Any]
"""A callback that every attack calls when it begins."""

_listener: ContextVar[Listener | None] = ContextVar("listener of attacks", default=None)


def announce(attack: str, left: int, images: int) -> None:
    """Say that an attack begins on the ``left`` of a batch's ``images`` that are still right."""
    listener = _listener.get()
    if listener is not None:
        listener(AttackBegan(attack=attack, left=left, images=images))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call ``listener`` when attacks begin inside the ``with`` block, in this context only."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def listen(listener: Listener) -> None:
    """Call ``listener`` from now on, in this context: for a process that does nothing else."""
    _listener.set(listener)
