"""Write the code of functions and classes apart from places and comments."""

from __future__ import annotations

import builtins
import contextlib
import dis
import hashlib
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

from dentbench.identity.lookups import environment_in, is_composed, names_in, texts_in
from dentbench.identity.user_code import is_installed, is_library, sha256_of, source_files

_LOADS: Final = ("LOAD_GLOBAL", "LOAD_NAME")

_IMPORTS: Final = frozenset({"import_module", "__import__", "modules"})

_BUILT_IN: Final = frozenset(vars(builtins))
"""Python's own names, before a user's code could add any."""

_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
"""A name that a module may have."""

_BOOKKEEPING: Final = frozenset(
    {
        *("__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__annotations__"),
        *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__"),
        *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__"),
        *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__type_params__"),
        "__slotnames__",  # what copy.deepcopy and pickle keep in a class once they met it
    }
)
"""Names in a class that do not change its behavior."""


def members(kind: type) -> list[tuple[str, Any]]:
    """Return the definitions in the body of a class, by name."""
    return sorted((name, value) for name, value in vars(kind).items() if name not in _BOOKKEEPING)


def instructions(code: CodeType, doc: str | None = None) -> tuple[list[str], list[Any]]:
    """Return a function's instructions as texts, and its constants.

    The lines it stands on are left out, and so is ``doc``, its docstring.
    """
    constants = list(code.co_consts)
    if doc is not None and constants and constants[0] == doc:
        constants[0] = None
    # Whoever calls it may name its arguments.
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    shape = (
        *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        arguments,
        *(code.co_names, len(code.co_varnames), len(code.co_freevars), len(code.co_cellvars)),
    )
    return [code.co_code.hex(), code.co_exceptiontable.hex(), repr(shape)], constants


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of the functions that are written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


@dataclass(frozen=True)
class LookedUp:
    """The names that a function looks up outside itself.

    ``globals``: names of its module; ``names``: all names that it has or may look up by a text;
    ``environment``: variables with their values; ``imports``: a user's modules that it imports when
    it is called, with their hashes.
    """

    globals: tuple[str, ...]
    names: tuple[str, ...]
    environment: tuple[str, ...]
    imports: tuple[tuple[str, str], ...]


def looked_up_by(function: FunctionType) -> LookedUp:
    """Return the names that a function looks up outside itself."""
    held = function.__globals__
    loaded: set[str] = set()
    names: set[str] = set()
    texts: set[str] = set()
    imports: set[str] = set()
    for code in nested(function.__code__):
        names.update(code.co_names)
        texts.update(texts_in(code))
        for step in dis.get_instructions(code):
            if step.opname in _LOADS:
                loaded.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                imports.add(step.argval)
    texts |= {held[name] for name in loaded if type(held.get(name)) is str}
    by_text = names_in(texts, names)
    if not _IMPORTS.isdisjoint(names):
        imports |= {text for text in texts if _MODULE.fullmatch(text)}
        imports |= _composed(texts, str(Path(held.get("__file__") or "").parent))
    package = held.get("__package__") or ""
    folder = str(Path(held.get("__file__") or "").parent)
    return LookedUp(
        globals=tuple(sorted((loaded | by_text) & (held.keys() | _added()))),
        names=tuple(sorted(names | by_text)),
        environment=tuple(environment_in(texts, names)),
        imports=tuple(
            (name, _hash_of(name, package, folder))
            for name in sorted(imports)
            if not is_library(name)
        ),
    )


def _added() -> set[str]:
    """Return the names among Python's own that a user added."""
    return {name for name in vars(builtins).keys() - _BUILT_IN if name != "_"}


def _composed(texts: Collection[str], folder: str) -> set[str]:
    """Return the modules beside a user's code whose names its texts put together."""
    beside = Path(folder).glob("*.py") if folder != "." else ()
    return {file.stem for file in beside if is_composed(file.stem, texts)} - {*texts}


def _hash_of(name: str, package: str, folder: str) -> str:
    """Return the hash of a module's sources, or its version; "" where there is none.

    It is looked for in the ``folder`` of what imports it, where Python may not look by now.
    """
    top = name.partition(".")[0]
    there = PathFinder.find_spec(top, [folder, str(Path.cwd()), *sys.path])
    if there is None and package:
        with contextlib.suppress(ImportError, ValueError):
            there = importlib.util.find_spec(f".{name}", package)
    if there is None or there.origin is None:
        return ""
    return version_of(name) if is_installed(name) else sha256_of(source_files(Path(there.origin)))


@cache
def version_of(module: str) -> str:
    """Return the version of the installed package that a module is of, "" where it has none.

    With the hash of its code, for a package of one's own is installed again under the same version.
    """
    top = module.partition(".")[0]
    names = metadata.packages_distributions().get(top, [top])
    return " ".join(filter(None, map(_installed, sorted({*names}))))


def _installed(distribution: str) -> str:
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return ""
    lines = (found.read_text("RECORD") or "").splitlines()
    code = sorted(line for line in lines if line.partition(",")[0].endswith((".py", ".so")))
    return f"{found.version} {hashlib.sha256(chr(10).join(code).encode()).hexdigest()}"
