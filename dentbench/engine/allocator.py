"""What a process does with memory that it frees."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
"""Two parameters of glibc's ``mallopt`` (its ``malloc.h``)."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and use it again; return whether it can.

    By default glibc hands large blocks back to the system at once, and every activation of every
    forward pays for fresh pages: up to a fifth of the time on two cores. What a run takes at most
    grows by less than a tenth. Only glibc has this setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
