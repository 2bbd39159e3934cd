"""Points handed in by anyone, kept beside the runs: ``<results>/claims/<hash>.npz``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np

from dentbench.errors import StoreError, os_reason
from dentbench.records.checkpoint import Points
from dentbench.records.safe_files import write_atomic

DIGITS: Final = 12
"""Digits of a file's SHA-256 that name its points."""


def save_claim(results: Path, points: Points, sha256: str) -> str:
    """Keep points (N, C, H, W) of a file with this SHA-256; return the name that they go by."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=points, sha256=np.array(sha256))
    path = _path(results, sha256[:DIGITS])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {path.parent}: {os_reason(error)}") from error
    write_atomic(path, buffer.getvalue())
    return sha256[:DIGITS]


def load_claim(results: Path, name: str) -> Points:
    """Return the points (N, C, H, W) kept under a name."""
    path = _path(results, name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            points: Points = archive["points"]
    except Exception as error:  # a damaged file may raise anything
        raise StoreError(
            f"the points claimed@{name} are not in {path} ({error}); run dentbench judge again "
            "with their file"
        ) from error
    return points


def _path(results: Path, name: str) -> Path:
    return results / "claims" / f"{name}.npz"
