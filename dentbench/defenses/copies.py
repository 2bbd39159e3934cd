"""Copy a user's objects, so that a run leaves no trace in them; locks are made anew."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import operator
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    ModuleType,
)
from typing import Any, Final

Reduced = tuple[Any, ...]
"""How an object is made anew, as ``__reduce_ex__`` says it."""


def copied(thing: Any) -> Any:
    """Return a copy of an object, or of a closure; other functions, and classes, are themselves.

    Raises whatever the object does where it cannot be copied.
    """
    try:
        return _with_closures(thing) if _is_closure(thing) else copy.deepcopy(thing)
    except Exception as error:  # a user's object may raise anything
        try:
            return _with_closures(thing)
        except Exception:
            raise error from None


def _is_closure(thing: Any) -> bool:
    """Return whether an object is a function, be it with arguments, that keeps variables."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return isinstance(thing, FunctionType) and bool(thing.__closure__)


def _with_closures(thing: Any) -> Any:
    data = io.BytesIO()
    copier = _Copier(data)
    copier.dump(thing)
    return _Copied(data.getvalue(), copier.kept).load()


class _Copier(pickle.Pickler):
    """Writes an object down, but for code, which is kept as it is: it is for this process."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.kept: list[Any] = []
        self._globals: set[int] = set()

    def persistent_id(self, obj: Any) -> int | None:
        """Return the number of an object that is not copied; None for another."""
        code = isinstance(obj, type | ModuleType | CodeType) or id(obj) in self._globals
        code = code or (isinstance(obj, FunctionType) and not obj.__closure__)
        code = code or (isinstance(obj, BuiltinFunctionType) and not _has_owner(obj))
        if not code:
            return None
        self.kept.append(obj)
        return len(self.kept) - 1

    def reducer_override(self, obj: Any) -> Any:
        """Return how closures, their variables and locks are made anew."""
        if isinstance(obj, FunctionType):
            self._globals.add(id(obj.__globals__))
            arguments = (obj.__code__, obj.__globals__, obj.__name__, obj.__defaults__)
            state = {**vars(obj), "__kwdefaults__": obj.__kwdefaults__}
            return FunctionType, (*arguments, obj.__closure__), state, None, None, _set_attributes
        if isinstance(obj, CellType):
            try:
                return CellType, (), (obj.cell_contents,), None, None, _fill
            except ValueError:  # not filled as yet
                return CellType, ()
        make = ANEW.get(type(obj))
        return NotImplemented if make is None else make(obj)


class _Copied(pickle.Unpickler):
    def __init__(self, data: bytes, kept: list[Any]) -> None:
        super().__init__(io.BytesIO(data))
        self.kept = kept

    def persistent_load(self, pid: Any) -> Any:
        """Return what was not copied."""
        return self.kept[pid]


def _has_owner(function: BuiltinFunctionType) -> bool:
    return not isinstance(function.__self__, ModuleType | None)


def _set_attributes(thing: Any, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        setattr(thing, name, value)


def _fill(cell: CellType, contents: tuple[Any]) -> None:
    cell.cell_contents = contents[0]


def _referring(reference: weakref.ref[Any]) -> Reduced:
    target = reference()
    return (_dead, ()) if target is None else (weakref.ref, (target,))


def _dead() -> weakref.ref[Any]:
    """Return a reference to an object that is no more."""
    return weakref.ref(set())


def _caching(function: Any) -> Reduced | str:
    """Return a function that keeps answers, with none: by its name where that leads to it."""
    found: Any = sys.modules.get(function.__module__)
    with contextlib.suppress(AttributeError):
        found = operator.attrgetter(function.__qualname__)(found)
    if found is function and function.__module__ != "__main__":
        name: str = function.__qualname__
        return name
    return _cached_anew, (function.__wrapped__, *function.cache_parameters().values())


def _cached_anew(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


ANEW: Final[Mapping[type, Callable[[Any], Reduced | str]]] = MappingProxyType(
    {
        type(threading.Lock()): lambda lock: (threading.Lock, ()),
        type(threading.RLock()): lambda lock: (threading.RLock, ()),
        threading.local: lambda local: (threading.local, (), vars(local)),
        weakref.ReferenceType: _referring,
        functools._lru_cache_wrapper: _caching,
    }
)
"""How objects are made anew that have no pickle."""
