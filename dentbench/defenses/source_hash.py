"""What a defense of one's own is made of, as a hash: whatever changes it makes another run."""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import pickle
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

import torch

_OTHERS: Final = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "dentbench"}
"""Packages whose sources are not hashed; a record names the versions that matter."""


def source_files(path: Path) -> tuple[Path, ...]:
    """Return a module's file and the files that it imports from beside it, and they in turn.

    For a package, or a module inside one, all modules of the outermost package. What is imported
    from elsewhere, or by other means than an import statement, is not followed.
    """
    found: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file in found or file.suffix != ".py" or not file.is_file():
            continue
        found.add(file)
        if (file.parent / "__init__.py").is_file():
            waiting += (file.parent.parent if _inside(file.parent) else file.parent).rglob("*.py")
            continue
        for name in _imported(file):
            waiting += [file.parent / f"{name}.py", file.parent / name / "__init__.py"]
    return tuple(sorted(found))


def _inside(folder: Path) -> bool:
    return (folder.parent / "__init__.py").is_file()


def _imported(file: Path) -> set[str]:
    """Return the outermost names that a file imports; none for one that is no Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def sha256_of(files: Iterable[Path]) -> str:
    """Return the SHA-256 of files: of their names and contents, wherever they are."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def fingerprint(thing: object) -> str:
    """Return the SHA-256 of an object: of what it holds, and of the source of all its types.

    An object that cannot be pickled gets a new one every time, so that nothing stored is ever
    taken for its own.
    """
    buffer = io.BytesIO()
    pickler = _Fingerprinter(buffer)
    try:
        pickler.dump(thing)
    except Exception:  # whatever an object's own pickling raises
        return hashlib.sha256(secrets.token_bytes(32)).hexdigest()
    files = sorted({one for file in pickler.files for one in source_files(file)})
    return hashlib.sha256(buffer.getvalue() + sha256_of(files).encode()).hexdigest()


class _Fingerprinter(pickle.Pickler):
    """Pickles tensors by their contents, and collects the source files of types and functions."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=4)
        self.files: set[Path] = set()

    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, torch.Tensor):
            plain = thing.detach().cpu().contiguous()
            data = plain.flatten().view(torch.uint8).numpy().tobytes()
            return str(plain.dtype), tuple(plain.shape), hashlib.sha256(data).hexdigest()
        if isinstance(thing, type | FunctionType) and not isinstance(thing, BuiltinFunctionType):
            if thing.__module__.partition(".")[0] in _OTHERS:
                return None
            self.files.add(Path(inspect.getfile(thing)))  # none, as in a session: no fingerprint
        return None
