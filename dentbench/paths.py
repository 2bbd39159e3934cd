"""Paths as users write them, and whose files lie where."""

from __future__ import annotations

import os
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

_INSTALLED: Final = (
    *(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages")),
    f"{sysconfig.get_path('stdlib')}{os.sep}",
)
"""Parts of the paths of files that are Python's or installed."""


def is_installed_file(file: str) -> bool:
    """Return whether a file is Python's or an installed package's, by the text of its path."""
    return any(folder in file for folder in _INSTALLED)


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder in place of a leading "~", where that is known."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (that of pathlib raises)


def home() -> Path:
    """Return the home folder; without one a folder of this user's for temporary files."""
    home = expanded("~")
    if home.is_absolute():
        return home
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"dentbench-{user}"
