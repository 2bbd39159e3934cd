"""Paths as users write them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
