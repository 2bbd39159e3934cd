"""Leave out of an object's attributes what its class computes and keeps, as ``cached_property``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from dentbench.errors import ModelError


def without_computed(
    value: Any,
    held: Mapping[str, Any],
    compared: frozenset[int],
    identity: Callable[[Any, frozenset[int]], str],
) -> Mapping[str, Any]:
    """Return the attributes ``held`` by an object without its computed properties.

    A ``cached_property`` is a result of the other attributes, whether it was read or not; what was
    put in its place by hand counts. ``compared``: the ids of objects whose properties are being
    compared at present. ``identity``: returns a value's identity, further ids being compared.
    """
    properties = {
        name: made
        for name in held
        if isinstance(made := _defined(type(value), name), cached_property)
    }
    if not properties:
        return held
    computed = {*properties}
    if id(value) not in compared:
        computed = {
            name
            for name in properties
            if _is_computed(name, value, held[name], properties, compared, identity)
        }
    return {name: item for name, item in held.items() if name not in computed}


def _defined(kind: type, name: str) -> Any:
    """Return what a class, or the first of its bases that does, defines under a name, or None."""
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def _is_computed(
    name: str,
    value: Any,
    item: Any,
    properties: Mapping[str, cached_property[Any]],
    compared: frozenset[int],
    identity: Callable[[Any, frozenset[int]], str],
) -> bool:
    """Return whether a copy of an object, nothing of which was read, computes an item."""
    try:
        unread = copy.copy(value)
        for other in properties.keys() & vars(unread).keys():
            del vars(unread)[other]
        compared |= {id(value), id(unread)}
        return identity(item, compared) == identity(properties[name].func(unread), compared)
    except ModelError:  # of no stable writing, as an open file is: it says nothing
        return True
    except Exception:  # whatever a class of a user raises
        return False
