"""Code as hashes: a user's by its instructions, a library's by its names."""

from __future__ import annotations

import builtins
import functools
import hashlib
import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final

from dentbench.identity import code
from dentbench.identity.lookups import (
    BY_NAME,
    ENVIRONMENT,
    KNOWN_NAMES,
    OWN_MODULE,
    Folders,
    environment_named,
)
from dentbench.identity.patches import custom_operators, modes, module_of, patchable, registering
from dentbench.identity.special_kinds import dispatched
from dentbench.identity.user_code import is_installed, is_library, sha256_of, source_files
from dentbench.identity.values import PLAIN, hash_of


class CodeWriter:
    """Writes code as hashes, each function and class once.

    ``write``: returns the hash of any value, and where it lies. ``attributes``: the hash of named
    values.
    """

    def __init__(
        self,
        write: Callable[[Any, str], bytes],
        attributes: Callable[[Mapping[str, Any], str], bytes],
    ) -> None:
        self.write = write
        self._attributes = attributes
        self._numbers: dict[int, int] = {}
        self._waiting: deque[tuple[Any, str]] = deque()
        self._told: set[str] = set()
        self._libraries: dict[str, tuple[bool, bool]] = {}
        self.folders = Folders()
        self.reads_environment = False
        self.calls_operators = False

    def written(self, value: Any, where: str) -> bytes | None:
        """Return the hash of a value that is code, at ``where``; None of any other."""
        for kinds, write in _WAYS:
            if isinstance(value, kinds):
                return write(self, value, where)
        return None

    def rest(self) -> list[bytes]:
        """Return the hashes of all code that was referred to, and that it refers to in turn.

        Before it, those of a user's code in the place of a library's.
        """
        written = [
            hash_of("patch", name, self.write(held, name))
            for name, held in patchable()
            if self._is_foreign(held)
        ]
        written += [
            hash_of("mode", self.write(mode, "a mode of torch"))
            for mode in modes()
            if not self._by_name(type(mode).__module__)
        ]
        while self._waiting:
            thing, where = self._waiting.popleft()
            write = self._function if isinstance(thing, FunctionType) else self._class
            written.append(write(thing, where))
        for module, for_all in registering():
            if not self._by_name(module.__name__) and (for_all or self.calls_operators):
                written.append(self._contents(module))
        # Which file or variable code reads may be put together of texts from anywhere.
        reads = [*self.folders.data()]
        reads += environment_named(self.folders.texts) if self.reads_environment else []
        return [*written, *([hash_of("read", *reads)] if reads else [])]

    def _reference(self, target: type | FunctionType, where: str) -> bytes:
        """Write a class or function by its number; its code is written once, at the end."""
        compiled = vars(target).get("_torchdynamo_orig_callable")
        if compiled is not None:  # what torch.compile was given
            return self.write(compiled, where)
        self.reads_environment |= target is os.getenv
        module = target.__module__ or ""
        written_in = module_of(target)
        if self._by_name(module) and self._by_name(written_in):
            patched = self._patched(target, where) if isinstance(target, type) else []
            version = "" if is_library(module) else code.version_of(module)
            number = str(getattr(sys.modules.get(module), "CODE_VERSION", ""))
            return hash_of("name", module, target.__qualname__, version, number, *patched)
        self.folders.add(written_in)
        if id(target) not in self._numbers:
            self._numbers[id(target)] = len(self._numbers)
            self._waiting.append((target, where or target.__qualname__))
        return hash_of("code", str(self._numbers[id(target)]))

    def _by_name(self, module: str) -> bool:
        """Return whether a module's code counts by its name: it is a library's."""
        top = module.partition(".")[0]
        if top not in self._libraries:
            self._libraries[top] = is_library(top), is_installed(top)
        known, installed = self._libraries[top]
        return known or (installed and top not in self._told)

    def _patched(self, kind: type, where: str) -> list[bytes]:
        """Write the methods of a library's class that are not the library's."""
        methods = []
        for base in kind.__mro__:
            for name, method in vars(base).items():
                written = isinstance(method, FunctionType) and self._is_foreign(method)
                written = written and method.__code__.co_filename[:1] != "<"
                if written and self._by_name(base.__module__):
                    methods.append(hash_of(name, self.write(method, where)))
        return sorted(methods)

    def _class(self, kind: type, where: str) -> bytes:
        parts: list[Any] = [kind.__qualname__]
        parts += [self.write(base, where) for base in kind.__bases__ if base is not object]
        parts += [self.write(type(kind), where)] * (type(kind) is not type)
        for name, member in code.members(kind):
            parts += [name, self.write(member, f"{kind.__qualname__}.{name}")]
        return hash_of("class", *parts)

    def _function(self, function: FunctionType, where: str) -> bytes:
        by_type = dispatched(function)
        if by_type is not None:
            return hash_of("dispatched", self.write(by_type, where))
        parts: list[Any] = [self._instructions(function.__code__, where, function.__doc__)]
        parts.append(self.write(function.__defaults__, where))
        parts.append(self._attributes(function.__kwdefaults__ or {}, where))
        parts.append(self._attributes(vars(function), where))
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                held = cell.cell_contents
            except ValueError:  # not filled as yet
                continue
            parts += [self.write(held, f"{where} (its {name})")]
        looked_up = code.looked_up_by(function)
        for name in looked_up.globals:
            value = function.__globals__.get(name, vars(builtins).get(name))
            parts += [name, self._named(value, looked_up.names, f"{where} (its {name})")]
        for imported in looked_up.imports:
            parts += imported
        parts += looked_up.environment
        self.reads_environment |= not ENVIRONMENT.isdisjoint(looked_up.names)
        self.calls_operators |= "ops" in looked_up.names
        self.folders.names |= KNOWN_NAMES & {*looked_up.names}
        parts += self._by_text(function, looked_up)
        parts += [self.write(op, where) for op in custom_operators(looked_up.names)]
        return hash_of("function", *parts)

    def _by_text(self, function: FunctionType, looked_up: code.LookedUp) -> list[bytes]:
        """Write the user's modules in which a function may look up whatever a text names."""
        if BY_NAME.isdisjoint(looked_up.names):
            return []
        held = [function.__globals__[name] for name in looked_up.globals]
        modules = [value for value in held if isinstance(value, ModuleType)]
        if not OWN_MODULE.isdisjoint(looked_up.names):
            modules += filter(None, [sys.modules.get(function.__globals__.get("__name__", ""))])
        return [self._contents(module) for module in modules if not self._by_name(module.__name__)]

    def _contents(self, module: ModuleType) -> bytes:
        """Write a user's module as a whole: its source, and its plain values as they are."""
        file = getattr(module, "__file__", None)
        source = sha256_of(source_files(Path(file))) if file else ""
        plain = {
            name: value
            for name, value in vars(module).items()
            if type(value) in PLAIN and not (name.startswith("__") and name.endswith("__"))
        }
        return hash_of("contents", source, self._attributes(plain, module.__name__))

    def _instructions(self, body: CodeType, where: str, doc: str | None = None) -> bytes:
        texts, constants = code.instructions(body, doc)
        return hash_of(
            "instructions", *texts, *(self.write(constant, where) for constant in constants)
        )

    def _named(self, value: Any, names: Collection[str], where: str) -> bytes:
        """Write a function's lookups: of a module, the names that it may take from it."""
        if not isinstance(value, ModuleType):
            return self.write(value, where)
        parts: list[Any] = [value.__name__.rpartition(".")[2]]
        known = self._by_name(value.__name__)
        if known and not is_library(value.__name__):
            parts.append(code.version_of(value.__name__))
        for name in names:
            held = vars(value).get(name)
            if held is None and not known:  # by a function of the module, PEP 562
                held = vars(value).get("__getattr__")
            if isinstance(held, ModuleType):
                inner = [other for other in names if other != name]
                if not known:
                    parts += [name, self._named(held, inner, f"{where}.{name}")]
            elif held is not None and (not known or self._is_foreign(held)):
                parts += [name, self.write(held, f"{where}.{name}")]
        return hash_of("package", *parts)

    def _is_foreign(self, held: Any) -> bool:
        """Return whether an attribute of a library is code of a user, put there by a patch."""
        return not self._by_name(module_of(held) or "torch")

    def _package(self, value: ModuleType, where: str) -> bytes:
        return hash_of("package", value.__name__)

    def _built_in(self, value: BuiltinFunctionType, where: str) -> bytes:
        owner = value.__self__
        if owner is None or isinstance(owner, ModuleType):
            module = value.__module__ or ""
            file = getattr(sys.modules.get(module), "__file__", None)
            compiled = b""
            if file and not self._by_name(module):
                compiled = hashlib.sha256(Path(file).read_bytes()).digest()
            return hash_of("built-in", module, value.__qualname__, compiled)
        return hash_of("built-in of", value.__name__, self.write(owner, where))

    def _method(self, value: MethodType, where: str) -> bytes:
        return hash_of(
            "method", self.write(value.__func__, where), self.write(value.__self__, where)
        )

    def _slot(self, value: Any, where: str) -> bytes:
        owner = getattr(value, "__self__", None)
        return hash_of("slot", value.__name__, b"" if owner is None else self.write(owner, where))

    def kind(self, kind: type, where: str) -> bytes:
        """Write the class of a module: of a package that nobody knows also by its code."""
        if is_installed(kind.__module__) and not is_library(kind.__module__):
            self._told.add(kind.__module__.partition(".")[0])
        return self.write(kind, where)

    def _wrapped(self, value: Any, where: str) -> bytes:
        return hash_of(type(value).__name__, self.write(value.__func__, where))

    def _property(self, value: property, where: str) -> bytes:
        return hash_of("property", *(self.write(f, where) for f in (value.fget, value.fset)))

    def _partial(self, value: Any, where: str) -> bytes:
        held = (self.write(part, where) for part in (value.func, value.args))
        return hash_of("partial", *held, self._attributes(value.keywords, where))

    def _cached(self, value: Any, where: str) -> bytes:
        return hash_of("cached", self.write(value.__wrapped__, where))


_WAYS: Final[tuple[tuple[Any, Callable[[CodeWriter, Any, str], bytes]], ...]] = (
    (type, CodeWriter._reference),
    (FunctionType, CodeWriter._reference),
    (CodeType, CodeWriter._instructions),
    (MethodType, CodeWriter._method),
    (BuiltinFunctionType, CodeWriter._built_in),
    ((MethodWrapperType, WrapperDescriptorType, MethodDescriptorType), CodeWriter._slot),
    (ModuleType, CodeWriter._package),
    ((staticmethod, classmethod), CodeWriter._wrapped),
    (property, CodeWriter._property),
    (functools.partial, CodeWriter._partial),
    (functools._lru_cache_wrapper, CodeWriter._cached),
)
"""How each type of code is written."""
