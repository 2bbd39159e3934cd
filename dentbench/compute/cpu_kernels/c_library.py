"""C code of this package: compiled once by the machine's own compiler, and kept.

For what PyTorch has no single operation for. Where there is no C compiler, or not PyTorch's own
OpenMP, whose threads are to do that work too, PyTorch's operations do it all.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock
from torch import Tensor

_log = logging.getLogger(__name__)

FLAGS: Final = ("-O3", "-fno-math-errno", "-fPIC", "-fopenmp", "-Wno-psabi")

LANES: Final = 16
"""How many channels C code works on at a time."""

SECONDS: Final = 60
"""How long a compiler may take; they take less than one."""

_folder: Path | None = None


def build_in(folder: Path | None) -> None:
    """Say where this process keeps what is compiled; None: PyTorch's operations do it all."""
    global _folder
    _folder = folder


@contextmanager
def building_in(folder: Path | None) -> Iterator[None]:
    """Say the same for the ``with`` block."""
    before = _folder
    build_in(folder)
    try:
        yield
    finally:
        build_in(before)


def library(source: Path) -> ctypes.CDLL | None:
    """Return the functions of a C file, compiled when they are first asked for; None: do without.

    None where :func:`build_in` did not say where to, or where they cannot be compiled.
    """
    return None if _folder is None else _library(source, _folder)


@cache
def _library(source: Path, folder: Path) -> ctypes.CDLL | None:
    command, openmp = compiler(), _openmp()
    if not command or openmp is None:
        _log.debug("%s is not compiled: there is no C compiler, or no OpenMP", source.name)
        return None
    try:
        return ctypes.CDLL(str(_built(source, folder, command, openmp)))
    except PermissionError as error:
        _log.warning("code in C is not used: %s", error)
        return None
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or error
        _log.debug("%s is not compiled: %s", source.name, told)
        return None


def is_plain(x: Tensor) -> bool:
    """Tell whether these are numbers in memory, not what stands for some, in float32."""
    return type(x) is Tensor and x.is_cpu and x.dtype == torch.float32


def is_dense(x: Tensor) -> bool:
    """Tell whether these are such numbers (B, C, H, W) in channels_last, without gaps."""
    return is_plain(x) and x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def pointer(tensor: Tensor | None) -> int | None:
    """Return where a tensor's numbers are; None of None, which is NULL in C."""
    return None if tensor is None else tensor.data_ptr()


def compiler() -> list[str]:
    """Return the command of the machine's C compiler; nothing if it has none."""
    asked = shlex.split(os.environ.get("CC", ""))
    if asked:
        return asked
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [found] if found else []


def _openmp() -> Path | None:
    """Return the OpenMP library that PyTorch brings: a second one's threads would be in its way."""
    return next((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"), None)


def _built(source: Path, folder: Path, command: list[str], openmp: Path) -> Path:
    """Return the library of a C file, compiled unless it is there. One process at a time."""
    depends_on = (source.read_text(), *command, *FLAGS, openmp.name, str(openmp.stat().st_size))
    name = hashlib.sha256("\n".join(depends_on).encode()).hexdigest()[:16]
    built = folder / f"{source.stem}-{name}.so"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_own(folder)
    with FileLock(built.with_suffix(".lock")):
        if not built.exists():
            with tempfile.TemporaryDirectory(dir=folder) as work:
                made, new = Path(work, "made.o"), Path(work, "new.so")
                _run([*command, *FLAGS, "-c", str(source), "-o", str(made)])
                # Not -fopenmp: that would be another OpenMP than PyTorch's.
                _run([*command, "-shared", str(made), str(openmp), "-o", str(new)])
                new.chmod(0o700)
                new.replace(built)
        _require_own(built)
    return built


def _require_own(path: Path) -> None:
    """Raise PermissionError unless only this user can write a file or folder.

    A cache may be shared, and loading a library runs its code: nobody else's is ever loaded.
    """
    if not hasattr(os, "getuid"):  # Windows keeps each user's folders apart by itself
        return
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"{path} is not this user's alone; remove it, or make it so: chmod go-w {path}"
        )


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
