"""Files of adversarial points, made by any tool: .npz, .npy or .safetensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dentbench.errors import DataError, os_reason

NAMES: Final = ("points", "x_adv", "adversarial", "images", "x")
"""The arrays that are taken for points, in this order, where a file holds several."""

KINDS: Final = (".npz", ".npy", ".safetensors")


def read_points(path: Path) -> tuple[NDArray[np.float32], str]:
    """Return the points (N, C, H, W) in [0, 1] of a file, and its SHA-256.

    Raises :class:`~dentbench.errors.DataError` for a file that holds anything else.
    """
    if path.suffix not in KINDS:
        raise DataError(f"{path} is no {', '.join(KINDS[:-1])} or {KINDS[-1]} file")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        arrays = _arrays(path)
    except FileNotFoundError as error:
        raise DataError(f"there is no file of points {path}; name one that is there") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({os_reason(error)})") from error
    except Exception as error:  # the type depends on the file's fault
        raise DataError(f"{path} holds no arrays of numbers that can be read") from error
    return _checked(path, _chosen(path, arrays)), digest


def _arrays(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return dict(load_file(path))
    loaded = np.load(path, allow_pickle=False)
    if path.suffix == ".npy":
        return {"points": loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def _chosen(path: Path, arrays: Mapping[str, Any]) -> NDArray[Any]:
    name = next((name for name in NAMES if name in arrays), None)
    if name is None and len(arrays) == 1:
        (name,) = arrays
    if name is None:
        held = ", ".join(arrays) or "nothing"
        raise DataError(f"{path} holds {held}; call the points {NAMES[0]}")
    chosen: NDArray[Any] = arrays[name]
    return chosen


def _checked(path: Path, points: NDArray[Any]) -> NDArray[np.float32]:
    if not np.issubdtype(points.dtype, np.floating):
        raise DataError(
            f"{path} holds points of type {points.dtype}; give floating numbers in [0, 1], "
            "such as float32"
        )
    if points.ndim != 4:
        raise DataError(f"{path} holds points of shape {points.shape}, not (images, C, H, W)")
    if not np.isfinite(points).all():
        raise DataError(f"{path} holds points that are NaN or infinite")
    low, high = float(points.min(initial=0)), float(points.max(initial=0))
    if low < -1e-6 or high > 1 + 1e-6:
        raise DataError(f"{path} holds values in [{low:.3g}, {high:.3g}]; scale them to [0, 1]")
    return points.astype(np.float32).clip(0, 1)
