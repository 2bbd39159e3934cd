"""Values of libraries whose own writing would leave out what counts, or fail."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import io
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from types import FunctionType
from typing import Any, Final, TypeAlias

import torch
from torch._library.custom_ops import OPDEFS, CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from dentbench.identity.contents import contents_sha256
from dentbench.identity.values import hash_of, script_hash, tensor_hash, unwritable

Write: TypeAlias = Callable[[Any, str], bytes]
"""Returns the hash of any value, and where it lies."""


def _logger(value: logging.Logger, write: Write, where: str) -> bytes:
    return hash_of("logger", value.name)


def _executor(value: Executor, write: Write, where: str) -> bytes:
    return hash_of(type(value).__name__, repr(getattr(value, "_max_workers", None)))


def _generator(value: torch.Generator, write: Write, where: str) -> bytes:
    return hash_of("generator", tensor_hash(value.get_state()))


def _script_function(value: Any, write: Write, where: str) -> bytes:
    return script_hash(value)


def _context_variable(value: contextvars.ContextVar[Any], write: Write, where: str) -> bytes:
    """Write a variable as this context sees it."""
    held = b""
    with contextlib.suppress(LookupError):  # it was not set and has no default
        held = write(value.get(), where)
    return hash_of("context", value.name, held)


def _custom_operator(value: CustomOpDef, write: Write, where: str) -> bytes:
    own = {name: held for name, held in vars(value).items() if name.endswith(("_fn", "_fns"))}
    return hash_of("operator", write(own, where))


def operator_hash(value: OpOverload | OpOverloadPacket, write: Write, where: str) -> bytes:
    """Write an operator by its name, and where it was registered in Python, by its function."""
    name = str(value).replace(".", "::", 1)
    made = OPDEFS.get(name.partition(".")[0])
    return hash_of("registered", name, b"" if made is None else write(made, where))


def _compiled_library(value: ctypes.CDLL, write: Write, where: str) -> bytes:
    """Write a compiled library by its file; what it can be called with is decided where it is."""
    file = Path(str(value._name))
    contents = contents_sha256(file) if value._name and file.is_file() else ""
    return hash_of("compiled", file.name, contents)


def _stream(value: Any, write: Write, where: str) -> bytes:
    """Leave out a file that is written to, as a log is; one that is read has no writing."""
    if not value.closed and value.readable():
        raise unwritable(value, where)
    return hash_of("written to", type(value).__name__)


def dispatched(function: FunctionType) -> Mapping[type, Any] | None:
    """Return the functions by type that ``functools.singledispatch`` chooses among, else None.

    What it keeps of its calls is left out.
    """
    made = vars(function).get("registry")
    if function.__code__.co_filename != functools.__file__ or not isinstance(made, Mapping):
        return None
    return made


SPECIAL: Final[tuple[tuple[Any, Callable[[Any, Write, str], bytes]], ...]] = (
    (logging.Logger, _logger),
    (Executor, _executor),
    (torch.Generator, _generator),
    (torch.jit.ScriptFunction, _script_function),
    (contextvars.ContextVar, _context_variable),
    (CustomOpDef, _custom_operator),
    (ctypes.CDLL, _compiled_library),
    ((io.TextIOWrapper, io.BufferedWriter, io.FileIO), _stream),
)
"""How each of these types is written."""
