"""The hash of a source by what it does: its comments, layout and docstrings say nothing."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import Any, Final

_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
"""The nodes that may begin with a docstring."""


@lru_cache(maxsize=1 << 12)
def meaning_sha256(source: bytes) -> str:
    """Return the SHA-256 of a source by its instructions; of its bytes where it is no Python.

    Docstrings count where the source asks for any.
    """
    whole = hashlib.sha256()
    for text in _instructions(source) or (source,):
        whole.update(f"{len(text)}:".encode())
        whole.update(text)
    return whole.hexdigest()


def _instructions(source: bytes) -> list[bytes]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            if b"__doc__" not in source:
                _drop_docstrings(tree)
            code = compile(tree, "", "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [text.encode(errors="surrogatepass") for text in _written(code)]


def _drop_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            alone = ast.copy_location(ast.Pass(), node.body[0])
            node.body = node.body[1:] or [alone]


def _written(code: CodeType) -> Iterator[str]:
    """Yield all of a code object but places: instructions, names, constants, code inside it."""
    yield code.co_code.hex()
    yield code.co_exceptiontable.hex()
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    yield repr((code.co_qualname, *counts, code.co_names))
    yield repr((code.co_varnames, code.co_freevars, code.co_cellvars))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _written(constant)
        else:
            yield _constant(constant)


def _constant(value: Any) -> str:
    """Write a constant; a set's members have an order of their own in each process."""
    if isinstance(value, frozenset):
        return f"set{sorted(map(_constant, value))}"
    if isinstance(value, tuple):
        return f"tuple{[*map(_constant, value)]}"
    return f"{type(value).__name__} {value!r}"
