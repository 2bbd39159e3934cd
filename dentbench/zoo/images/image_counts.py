"""Count a data set's images, by its card or the head of its file, before it is loaded."""

from __future__ import annotations

import importlib
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from dentbench.paths import expanded
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.images.corruptions import parse_title
from dentbench.zoo.images.picture_modes import SUFFIXES

_LABELS = ("labels.npy", "y.npy")


def images_there(dataset: str, data: str | None = None) -> int | None:
    """Return how many images a record's data set has; None where it cannot be read.

    ``dataset``: its name; ``data``: the user's file or folder that it was read from, if any.
    """
    return named_images(dataset) if data is None else _in_file(expanded(data))


@lru_cache(maxsize=1 << 8)
def named_images(dataset: str) -> int | None:
    """Return how many images a data set of the catalogue has, by its name; None of any other."""
    title = parse_title(dataset)
    name = title[0] if title else dataset
    return next((card.count for card in DATASETS.values() if card.name == name), None)


def _in_file(path: Path) -> int | None:
    try:
        if path.is_dir():
            return _in_folder(path)
        if path.suffix.lower() == ".npz":
            return _in_npz(path)
        if path.suffix.lower() == ".parquet":
            parquet = importlib.import_module("pyarrow.parquet")
            return int(parquet.ParquetFile(path).metadata.num_rows)
    except Exception:  # moved or damaged since: loading it says so
        return None
    return None


def _in_folder(folder: Path) -> int | None:
    """Return how many pictures lie below a folder; None where it holds none, as CIFAR's layout."""
    pictures = (
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )
    return sum(1 for _ in pictures) or None


def _in_npz(path: Path) -> int | None:
    """Return the length of the labels, from the head of their array alone."""
    with zipfile.ZipFile(path) as archive:
        names = {name.lower(): name for name in archive.namelist()}
        labels = next((names[name] for name in _LABELS if name in names), None)
        if labels is None:
            return None
        with archive.open(labels) as file:
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, _, _ = read[np.lib.format.read_magic(file)[0]](file)
            return int(shape[0])
