"""Choose whether a process keeps the memory that it frees."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
"""Two parameters of glibc's ``mallopt`` (its ``malloc.h``)."""

_DEFAULTS: Final = {M_TRIM_THRESHOLD: 128 * 2**10, M_MMAP_MAX: 2**16}


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and use it again; return whether it can.

    By default glibc hands large blocks back to the system at once, and every activation of every
    forward pays for fresh pages: up to a fifth of the time on two cores. The most memory that a run
    takes grows by less than a tenth. Only glibc has this setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def hand_back_memory() -> bool:
    """Undo :func:`keep_freed_memory`, and give free memory back; return whether it can.

    For a process that runs out: a free block in the midst of others is of no use to libraries that
    ask the system for pages, as oneDNN does for the code that it generates.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    for parameter, value in _DEFAULTS.items():
        libc.mallopt(parameter, value)
    libc.malloc_trim(0)
    return True
