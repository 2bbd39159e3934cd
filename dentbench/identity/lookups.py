"""Follow lookups by a text: names, variables of the environment, files of data."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any, Final

_BY_NAME: Final = frozenset({"getattr", "globals", "vars", "eval", "exec", "attrgetter"})
"""Names in code that may look up whatever its texts name."""

_ENVIRONMENT: Final = frozenset({"environ", "getenv"})

_DATA: Final = frozenset(
    {
        *(".npy", ".npz", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx", ".h5", ".mat"),
        *(".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".txt", ".csv", ".pkl", ".pickle"),
        ".parquet",
    }
)
"""The suffixes of files whose contents count where code or a setting names them."""

_LONGEST: Final = 1024
"""The length from which on a text names nothing."""

_NAME: Final = re.compile(r"[^\W\d]\w*")


def texts_in(code: CodeType) -> Iterator[str]:
    """Yield the texts that a function's code holds, those inside tuples included."""
    waiting: list[Any] = list(code.co_consts)
    for constant in waiting:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            waiting += constant


def names_in(texts: Iterable[str], names: Collection[str]) -> set[str]:
    """Return the names that code with such ``names`` may look up because its texts hold them."""
    if not _BY_NAME.intersection(names):
        return set()
    return {word for text in texts if len(text) < _LONGEST for word in _NAME.findall(text)}


def environment_in(texts: Iterable[str], names: Collection[str]) -> list[str]:
    """Return the variables of the environment that code with such ``names`` reads, with values."""
    if not _ENVIRONMENT.intersection(names):
        return []
    variables = sorted({text for text in texts if _NAME.fullmatch(text)})
    return [f"{variable}={os.environ.get(variable)!r}" for variable in variables]


class Folders:
    """The folders of a user's code: where it lies is no part of what it does, its data are."""

    def __init__(self) -> None:
        self._seen: dict[str, Path | None] = {}

    def add(self, module: str) -> None:
        """Take the folder that a module is imported from."""
        if module not in self._seen:
            known = sys.modules.get(module)
            file = getattr(known, "__file__", None)
            depth = module.count(".") + hasattr(known, "__path__")
            parents = Path(file).absolute().parents if file else ()
            self._seen[module] = parents[depth] if depth < len(parents) else None

    def written(self, text: str) -> tuple[str, ...]:
        """Return a text, below one of the folders as seen from there, with the data it names."""
        if not 0 < len(text) < _LONGEST or "\n" in text or "\0" in text:
            return (text,)
        folders = dict.fromkeys(filter(None, self._seen.values()))
        path = Path(text)
        within = next((one for one in folders if one == path or one in path.parents), None)
        shown = text if within is None else f"./{path.relative_to(within)}"
        if path.suffix not in _DATA:
            return (shown,)
        for folder in (*folders, Path.cwd()):
            file = folder / path
            if file.is_file():
                return shown, hashlib.sha256(file.read_bytes()).hexdigest()
        return (shown,)
