"""Read data files as arrays, unchecked. Nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import json
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dentbench.errors import DataError, joined_lines
from dentbench.zoo.cards.dataset_cards import DatasetCard
from dentbench.zoo.file_kinds import kind_of
from dentbench.zoo.images import picture_modes


@dataclass(frozen=True, kw_only=True, eq=False)
class RawData:
    """Arrays as a file holds them, with the number of classes and a name where it says them."""

    images: Any
    labels: Any
    classes: int | None = None
    name: str | None = None


SAVE: Final = 'write them by np.savez("data.npz", images=images, labels=labels)'
"""How to write a file that :func:`read_npz` reads."""


def read_npz(path: Path) -> RawData:
    """Read ``images`` and ``labels`` (or ``x`` and ``y``), and ``classes`` if it is there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array, not arrays with names")
            names = {name.lower(): name for name in file.files}
            for images, labels in (("images", "labels"), ("x", "y")):
                if images in names and labels in names:
                    classes = file[names["classes"]] if "classes" in names else None
                    return RawData(
                        images=file[names[images]],
                        labels=file[names[labels]],
                        classes=int(classes) if classes is not None and classes.ndim == 0 else None,
                    )
            held = ", ".join(file.files) or "nothing"
            raise ValueError(f"it has {held}, not images and labels, or x and y; {SAVE}")
    except Exception as error:  # zipfile, zlib, struct and NumPy raise many kinds
        raise _unreadable(path, "an npz file with images and labels", error) from error


def read_parquet(path: Path) -> RawData:
    """Read the public column layout: ``img`` or ``image`` (struct of ``bytes``), and ``label``.

    Images must be of one size; gray images give (N, 1, H, W), all others RGB.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        pictures = next((name for name in ("img", "image") if name in names), None)
        label = next((name for name in ("label", "labels", "fine_label") if name in names), None)
        if pictures is None or label is None:
            raise ValueError(
                f"it has columns {', '.join(names)}; img or image, and label or labels, are wanted"
            )
        table = file.read(columns=[pictures, label])
        if table.num_rows == 0:
            raise ValueError("it has no rows")
        if table[label].null_count:
            raise ValueError("some labels are missing")
        images = _decode(table[pictures].to_pylist())
        labels = table[label].to_numpy()
    except DataError:
        raise
    except Exception as error:  # pyarrow raises many kinds
        raise _unreadable(path, "a parquet file with img and label columns", error) from error
    schema = file.schema_arrow
    name = (schema.metadata or {}).get(b"name", b"").decode("utf-8", "replace").strip()
    return RawData(
        images=images, labels=labels, classes=_class_count(schema, label), name=name or None
    )


COUNT: Final = 10_000
HEAD: Final = 20
"""How many images CIFAR's test sets have, and of how many of them we have the hashes."""


def check_pictures(card: DatasetCard, path: Path) -> None:
    """Refuse a parquet file that is not CIFAR's test set, pixel by pixel and in its order.

    Nobody published a hash of its content: the check is of the first 20 images and labels, the
    number of images, and that there are as many of each class. Raises
    :class:`~dentbench.errors.DataError`.
    """
    raw = read_parquet(path)
    if raw.images.shape != (COUNT, *card.shape):
        raise DataError(f"it has images of shape {raw.images.shape}, not {(COUNT, *card.shape)}")
    labels = np.asarray(raw.labels)
    head = hashlib.sha256(raw.images[:HEAD].tobytes() + labels[:HEAD].astype(np.uint8).tobytes())
    if head.hexdigest() != card.head_sha256:
        raise DataError(
            f"its first {HEAD} images are not those of {card.name}: it was compressed again, or "
            "has another order; dentbench evaluate takes it as --data FILE"
        )
    of_each = COUNT // card.classes
    if not np.array_equal(np.bincount(labels), np.full(card.classes, of_each)):
        raise DataError(f"it has not {of_each:,} images of every class")


def read_pictures(paths: Sequence[Path]) -> Any:
    """Read image files of one size to one uint8 array, (N, 3, H, W) or (N, 1, H, W)."""
    try:
        return _decode([path.read_bytes() for path in paths])
    except (OSError, ValueError) as error:
        raise _unreadable(paths[0].parent, "a folder of images", error) from error


def _decode(cells: Sequence[Any]) -> Any:
    """Decode image files to one uint8 array, (N, 3, H, W) or (N, 1, H, W)."""
    from PIL import Image

    decoded: list[Any] = []
    for number, cell in enumerate(cells):
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if content is None and isinstance(cell, dict) and cell.get("path"):
            raise ValueError(
                f"row {number} has no bytes of a picture but its path, {cell['path']}; save the "
                "data set with its files embedded"
            )
        if content is None:
            raise ValueError(f"row {number} has no bytes of a picture; leave such rows out")
        if not isinstance(content, bytes):
            raise ValueError(
                f"row {number} has no bytes of a picture, as of a PNG, but "
                f"{type(content).__name__}; pixels go into an npz file: {SAVE}"
            )
        try:
            with Image.open(io.BytesIO(content)) as picture:
                decoded.append(picture_modes.plain(picture))
        except Exception as error:
            words = picture_modes.reason(error, content)
            raise ValueError(f"the image of row {number} cannot be decoded ({words})") from error
    gray = all(picture.mode == "L" for picture in decoded)
    arrays = [np.asarray(picture if gray else picture.convert("RGB")) for picture in decoded]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"images have several sizes, {_listed(shapes)}")
    stacked = np.stack(arrays)
    return stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, sorted(values, key=str)[:3]))


def _class_count(schema: Any, label: str) -> int | None:
    """The number of classes that the file's own metadata (public data sets' form) declare."""
    try:
        declared = json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]["names"]
        return len(declared) or None
    except (KeyError, TypeError, ValueError):
        return None


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that makes NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            new = importlib.util.find_spec("numpy._core") is not None  # since NumPy 2
            base = "numpy._core.multiarray" if new else "numpy.core.multiarray"
            return importlib.import_module(base)._reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it asks for another encoding than latin1")
    return text.encode("latin1")


def read_cifar(path: Path, label_key: str) -> RawData:
    """Read a CIFAR batch as torchvision lays it out: uint8 rows of 3,072 pixels, and labels."""
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="latin1").load()
        pixels = np.asarray(batch["data"], dtype=np.uint8)
        labels = np.asarray(batch[label_key])
        return RawData(images=pixels.reshape(-1, 3, 32, 32), labels=labels)
    except Exception as error:  # a damaged pickle raises many kinds
        raise _unreadable(path, "a CIFAR batch", error) from error


def _unreadable(path: Path, wanted: str, error: Exception) -> DataError:
    kind = kind_of(path)
    words = "it is " + kind
    if not kind or kind in _OWN:
        words = joined_lines(error)
    if "allow_pickle" in words:
        words = "it holds Python objects, not numbers"
    return DataError(f"{path.name} is not {wanted} that can be read ({words})")


_OWN: Final = frozenset({"an .npz file", "a parquet file"})
"""The kinds of files that the readers read, of which an error says the fault."""
