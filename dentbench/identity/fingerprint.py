"""The identity of a network, or of any object, as a hash: its code, its settings, its tensors.

Two objects have one fingerprint exactly if they are made of the same code with the same settings:
in any process, wherever the code lies. The order of a dictionary counts, for code may go through it
in that order; that of attributes does not. Functions and classes of a user count by what they do,
and so does whatever they name, in turn; those of libraries by their names (see
:func:`~dentbench.identity.user_code.is_library`).
"""

from __future__ import annotations

import copyreg
import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import PurePath
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import GraphModule
from torch.utils.hooks import RemovableHandle

from dentbench.identity.code_writer import CodeWriter
from dentbench.identity.computed_properties import without_computed
from dentbench.identity.special_kinds import SPECIAL, operator_hash
from dentbench.identity.user_code import is_library
from dentbench.identity.values import (
    PLAIN,
    hash_of,
    is_a,
    order_of,
    script_hash,
    tensor_hash,
    unwritable,
)

_EMPTY: Final = (
    *(type(threading.Lock()), type(threading.RLock()), threading.local, SimpleQueue),
    *(type(os.environ), RemovableHandle),
)
"""Types whose content does not change how a number is computed."""

_WEAK: Final = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)

_TENSORS: Final = (Tensor, nn.Parameter, nn.Buffer)

_HOOKS: Final = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks_with_kwargs",
)
"""Where modules keep hooks: by numbers that count all hooks of the process."""

_UNTOLD: Final = frozenset(
    {
        *("training", "_non_persistent_buffers_set", "_is_full_backward_hook"),
        *("_state_dict_hooks", "_state_dict_pre_hooks"),
        *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
    }
)
"""Attributes of modules that do not change their answers."""


def fingerprint(thing: object, hashed: Collection[str] = (), *, texts: bool = True) -> str:
    """Return the SHA-256, in hexadecimal, of an object's code and values.

    ``hashed``: the names of tensors of a network that are left out, because another hash has them.
    ``texts``: whether texts and paths count, as those do that are the same each time it is made.
    Raises :class:`~dentbench.errors.ModelError` for an object that holds something that has no
    stable writing, such as an open connection: its results could not be told from others'.
    """
    return _Writer(frozenset(hashed), texts=texts).whole(thing)


class _Writer:
    """Writes objects as hashes, each once.

    ``compared``: the ids of objects whose computed properties are being compared, so that these
    are left out. ``texts``: whether texts count.
    """

    def __init__(
        self,
        hashed: frozenset[str],
        compared: frozenset[int] = frozenset(),
        *,
        texts: bool = True,
    ) -> None:
        self.hashed = hashed
        self.compared = compared
        self.texts = texts
        self.known: dict[int, bytes] = {}
        self.open: list[int] = []
        self.kept: list[Any] = []  # so that no two of them have the same id
        self.code = CodeWriter(self.write, self._attributes)
        self.networks: dict[int, int] = {}

    def whole(self, thing: object) -> str:
        """Return the hash of an object, and of all code that it leads to."""
        total = hashlib.sha256(self.write(thing, ""))
        for part in self.code.rest():
            total.update(part)
        return total.hexdigest()

    def write(self, value: Any, where: str) -> bytes:
        """Return the hash of a value; ``where`` it lies is for whoever reads an error."""
        if type(value) is str:
            return self._text("str", value)
        if type(value) in PLAIN:
            return hash_of(type(value).__name__, repr(value))
        if isinstance(value, nn.Module):
            return self._network(value, where, None)
        at = id(value)
        if at in self.known:
            return self.known[at]
        if at in self.open:
            return hash_of("again", str(len(self.open) - self.open.index(at)))
        self.kept.append(value)
        self.open.append(at)
        digest = self._written(value, where)
        self.open.pop()
        self.known[at] = digest
        return digest

    def _written(self, value: Any, where: str) -> bytes:
        written = self.code.written(value, where)
        if written is not None:
            return written
        for kinds, write in _WAYS:
            if is_a(value, kinds):
                return write(self, value, where)
        for kinds, write_special in SPECIAL:
            if is_a(value, kinds):
                return write_special(value, self.write, where)
        write_exactly = _CONTAINERS.get(type(value), _Writer._object)
        return write_exactly(self, value, where)

    # --- tensors and containers -------------------------------------------------------------------

    def _tensor(self, value: Tensor, where: str) -> bytes:
        try:
            written = tensor_hash(value)
        except RuntimeError as error:  # of a kind that has no plain writing
            raise unwritable(value, where) from error
        if type(value) not in _TENSORS:
            written = hash_of("kind", self.write(type(value), where), written)
        own = vars(value)
        return hash_of("with", written, self._attributes(own, where)) if own else written

    def _array(self, value: np.ndarray[Any, Any] | np.generic | memoryview, where: str) -> bytes:
        array = np.asarray(value)
        if array.dtype.hasobject:
            return hash_of("array", str(array.shape), self.write(array.tolist(), where))
        raw = np.ascontiguousarray(array).tobytes()
        return hash_of("array", array.dtype.str, str(array.shape), raw)

    def _sequence(self, value: Iterable[Any], where: str) -> bytes:
        parts = (self.write(item, f"{where}[{at}]") for at, item in enumerate(value))
        return hash_of(type(value).__name__, *parts)

    def _set(self, value: Iterable[Any], where: str) -> bytes:
        return hash_of(
            "set", *sorted(self.write(item, where) for item in sorted(value, key=order_of))
        )

    def _mapping(self, value: Mapping[Any, Any], where: str) -> bytes:
        parts = []
        for key, item in value.items():  # in their order, in which code may go through them
            parts += [self.write(key, where), self.write(item, f"{where}[{key!r:.40}]")]
        return hash_of("mapping", *parts)

    def _weak(self, value: Any, where: str) -> bytes:
        held = [*(value.items() if isinstance(value, Mapping) else value)]
        return hash_of("weak", *sorted(self.write(item, where) for item in held))

    def _path(self, value: PurePath, where: str) -> bytes:
        return self._text("path", str(value))

    def _text(self, kind: str, value: str) -> bytes:
        return hash_of(kind, *(self.code.folders.written(value) if self.texts else ()))

    # --- objects ----------------------------------------------------------------------------------

    def _object(self, value: Any, where: str) -> bytes:
        """Write an object as its class says to copy it, else by its attributes."""
        try:
            registered = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if registered is None else registered(value)
        except Exception as error:  # whatever a class of a user raises
            own = getattr(value, "__dict__", None)
            if own is None or is_library(type(value).__module__):
                raise unwritable(value, where) from error
            own = self._without_computed(value, own)
            return hash_of("object", self.write(type(value), where), self._attributes(own, where))
        if isinstance(reduced, str):
            return hash_of("name", type(value).__module__, reduced)
        make, arguments, *rest = reduced
        state, items, pairs = (*rest, None, None, None)[:3]
        held = [self.write(make, where), self.write(arguments, where)]
        if isinstance(state, dict):
            held.append(self._attributes(self._without_computed(value, state), where))
        elif state is not None:
            held.append(self.write(state, where))
        if items is not None:
            held.append(self._sequence(list(items), where))
        if pairs is not None:
            held.append(self._mapping(dict(pairs), where))
        return hash_of("object", *held)

    def _attributes(self, held: Mapping[str, Any], where: str) -> bytes:
        parts: list[str | bytes] = []
        for name, attribute in sorted(held.items(), key=lambda item: str(item[0])):
            parts += [str(name), self.write(attribute, f"{where}.{name}".lstrip("."))]
        return hash_of("attributes", *parts)

    def _without_computed(self, value: Any, held: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the attributes of an object without those that its class computes and keeps."""

        def identity(item: Any, compared: frozenset[int]) -> str:
            return _Writer(self.hashed, compared, texts=self.texts).whole(item)

        return without_computed(value, held, self.compared, identity)

    def _operator(self, value: OpOverload | OpOverloadPacket, where: str) -> bytes:
        self.code.calls_operators = True
        return operator_hash(value, self.write, where)

    def _empty(self, value: Any, where: str) -> bytes:
        if value is os.environ:
            self.code.reads_environment = True
        if isinstance(value, threading.local):  # as this thread sees it
            return hash_of("local", self._attributes(vars(value), where))
        return hash_of("empty", type(value).__name__)

    # --- networks ---------------------------------------------------------------------------------

    def _network(self, module: nn.Module, where: str, name: str | None) -> bytes:
        """Write a module; ``name`` is its own in the network, with a dot, None outside of it."""
        if id(module) in self.networks:  # a layer that is used twice is not two layers
            return hash_of("module again", str(self.networks[id(module)]))
        self.networks[id(module)] = len(self.networks)
        name = "" if not where else name
        compiled = dict(module.named_children()).get("_orig_mod")
        if compiled is not None and type(module).__module__.startswith("torch._dynamo"):
            return self._network(compiled, f"{where}._orig_mod", name)
        if isinstance(module, torch.jit.ScriptModule):
            return script_hash(module)
        parts: list[Any] = [self.code.kind(type(module), where)]
        if isinstance(module, GraphModule):
            parts += [module.code]
        for field, held in sorted(self._without_computed(module, vars(module)).items()):
            if field in _UNTOLD or (isinstance(module, GraphModule) and field not in _OF_GRAPHS):
                continue
            inside = f"{where}.{field}".lstrip(".")
            if field == "_modules":
                parts += self._layers(held, where, name)
            elif field in ("_parameters", "_buffers"):
                parts += self._tensors(held, where, name)
            elif field in _HOOKS:
                parts += [field, *(self.write(hook, inside) for hook in held.values())]
            else:
                parts += [field, self.write(held, inside)]
        return hash_of("module", *parts)

    def _layers(self, held: Mapping[str, Any], where: str, name: str | None) -> list[Any]:
        parts: list[Any] = []
        for child, layer in held.items():  # in their order, which is that of a Sequential
            inside = f"{where}.{child}".lstrip(".")
            path = None if name is None else f"{name}{child}."
            written = hash_of("none") if layer is None else self._network(layer, inside, path)
            parts += [child, written]
        return parts

    def _tensors(self, held: Mapping[str, Any], where: str, name: str | None) -> list[Any]:
        parts: list[Any] = []
        for own, tensor in sorted(held.items()):
            inside = f"{where}.{own}".lstrip(".")
            if name is None or f"{name}{own}" not in self.hashed:
                parts += [own, self.write(tensor, inside)]
            elif isinstance(tensor, Tensor) and vars(tensor):
                parts += [own, self._attributes(vars(tensor), inside)]
        return parts

    def _reference(self, value: Any, where: str) -> bytes:
        return hash_of("reference", self.write(value(), where))


_OF_GRAPHS: Final = ("_modules", "_parameters", "_buffers", *_HOOKS)

_WAYS: Final[tuple[tuple[Any, Callable[[_Writer, Any, str], bytes]], ...]] = (
    (Tensor, _Writer._tensor),
    ((np.ndarray, np.generic, memoryview), _Writer._array),
    (PurePath, _Writer._path),
    ((OpOverload, OpOverloadPacket), _Writer._operator),
    (_EMPTY, _Writer._empty),
    (_WEAK, _Writer._weak),
    (weakref.ReferenceType, _Writer._reference),
)


_CONTAINERS: Final[Mapping[type, Callable[[_Writer, Any, str], bytes]]] = MappingProxyType(
    {
        list: _Writer._sequence,
        tuple: _Writer._sequence,
        set: _Writer._set,
        frozenset: _Writer._set,
        dict: _Writer._mapping,
        MappingProxyType: _Writer._mapping,
    }
)
