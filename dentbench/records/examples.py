"""A few images of a run with their adversarial points and predictions, kept for reports.

Small pictures, not data: at most :data:`SIZE` pixels wide, 8 bits a channel, in one file beside
the run's outcomes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dentbench.errors import StoreError
from dentbench.records.checkpoint import run_path
from dentbench.records.safe_files import write_atomic

FILE: Final = "gallery.npz"
"""The name of the file in a run's folder."""

SIZE: Final = 96
"""Pixels that a kept picture is wide or high at most."""

Pictures = NDArray[np.uint8]
"""Pictures (K, H, W, C) of 1 or 3 channels."""


@dataclass(frozen=True)
class Gallery:
    """K images of a run.

    ``index`` (K,): each image's place in the run; ``label`` (K,) its class. ``protocol`` (K,): the
    first protocol that broke it, or the one whose points are shown; ``survives`` (K,): whether no
    protocol broke it. ``clean``, ``adversarial``, ``difference`` (of the two, around gray, at full
    contrast for an eps), ``blurred_clean``, ``blurred`` (the network's input for the
    adversarial point; of no images without a blur): pictures. ``predicted`` (K, 4) classes and
    ``confidence`` (K, 4) in [0, 1]: of the static model and of the defense, adapted to the declared
    batch, on the clean image, then the same on the adversarial point.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    protocol: NDArray[np.str_]
    survives: NDArray[np.bool_]
    clean: Pictures
    adversarial: Pictures
    difference: Pictures
    blurred_clean: Pictures
    blurred: Pictures
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]


def save(results: Path, key: str, gallery: Gallery) -> None:
    """Write a gallery into a run's folder, which is there, in one atomic step."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(vars(gallery))
    np.savez_compressed(buffer, **arrays)
    write_atomic(run_path(results, key) / FILE, buffer.getvalue())


def load(results: Path, key: str) -> Gallery | None:
    """Return the gallery kept of a run, or None when there is none.

    Raises :class:`~dentbench.errors.StoreError` for a file that holds no gallery.
    """
    path = run_path(results, key) / FILE
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Gallery(**{field.name: archive[field.name] for field in fields(Gallery)})
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file may raise anything
        raise StoreError(
            f"{path} cannot be read ({error}); delete it and run evaluate again"
        ) from error
