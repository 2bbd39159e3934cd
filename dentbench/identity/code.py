"""What functions and classes do, apart from where they are written and how they are commented."""

from __future__ import annotations

import dis
import importlib.util
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final

from dentbench.identity.user_code import is_installed, is_library, sha256_of, source_files

_LOADS: Final = ("LOAD_GLOBAL", "LOAD_NAME")

_BOOKKEEPING: Final = frozenset(
    {
        *("__module__", "__dict__", "__weakref__", "__doc__", "__qualname__", "__annotations__"),
        *("__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__"),
        *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__"),
        *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__type_params__"),
    }
)
"""Names in a class that say nothing of what it does."""


def members(kind: type) -> list[tuple[str, Any]]:
    """Return what the body of a class defines, by name."""
    return sorted((name, value) for name, value in vars(kind).items() if name not in _BOOKKEEPING)


def instructions(code: CodeType, doc: str | None = None) -> tuple[list[str], list[Any]]:
    """Return what a function's code does as texts, and its constants.

    The lines it stands on are left out, and so is ``doc``, its docstring.
    """
    constants = list(code.co_consts)
    if doc is not None and constants and constants[0] == doc:
        constants[0] = None
    shape = (
        *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        *(code.co_names, len(code.co_varnames), len(code.co_freevars), len(code.co_cellvars)),
    )
    return [code.co_code.hex(), code.co_exceptiontable.hex(), repr(shape)], constants


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of the functions that are written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def global_names(function: FunctionType) -> tuple[list[str], list[str]]:
    """Return the names that a function looks up outside itself, and all names that it has."""
    looked_up: set[str] = set()
    names: set[str] = set()
    for code in nested(function.__code__):
        names.update(code.co_names)
        looked_up.update(
            step.argval for step in dis.get_instructions(code) if step.opname in _LOADS
        )
    return sorted(looked_up & function.__globals__.keys()), sorted(names)


def imported_sources(function: FunctionType) -> list[tuple[str, str]]:
    """Return the modules of a user that a function imports when it is called, with their hashes."""
    package = function.__globals__.get("__package__") or ""
    found = set()
    for code in nested(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname == "IMPORT_NAME" and not is_library(step.argval):
                found.add((step.argval, _hash_of(step.argval, package)))
    return sorted(found)


def _hash_of(name: str, package: str) -> str:
    try:
        there = importlib.util.find_spec(name)
        if there is None and package:
            there = importlib.util.find_spec(f".{name}", package)
    except (ImportError, ValueError):
        return ""
    if there is None or there.origin is None:
        return ""
    return version_of(name) if is_installed(name) else sha256_of(source_files(Path(there.origin)))


def version_of(module: str) -> str:
    """Return the version of the installed package that a module is of, "" where it has none."""
    top = module.partition(".")[0]
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(top, [])
        return " ".join(metadata.version(owner) for owner in owners)
