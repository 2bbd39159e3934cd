"""Know an object again as a run left it: what it counted or kept there makes it no other object."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

_left: Final[dict[int, tuple[weakref.ref[Any], Mapping[str, str]]]] = {}
"""By the id of an object: the identities that runs left it with, and that before the first run."""


def before_runs(thing: object, identity: str) -> str:
    """Return the identity that an object had before the runs of this process; it has one now.

    They are the same unless the very object has the ``identity`` that a run left it with: counters
    and caches of a class or a module change as it is asked. What else is changed makes it another.
    """
    return _left_with(thing).get(identity, identity)


@contextmanager
def known_again(thing: object, before: str, identity: Callable[[], str]) -> Iterator[None]:
    """Note with which identity the block leaves an object that had another ``before``."""
    try:
        yield
    finally:
        with suppress(Exception):  # of a kind that nothing can refer to, or with no writing now
            after = identity()
            if after != before:
                at = id(thing)
                reference = weakref.ref(thing, lambda _: _left.pop(at, None))
                _left[at] = reference, {**_left_with(thing), after: before}


def _left_with(thing: object) -> Mapping[str, str]:
    reference, identities = _left.get(id(thing), (None, {}))
    return identities if reference is not None and reference() is thing else {}
