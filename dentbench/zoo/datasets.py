"""From a name or a file to images in [0, 1] with labels: embedded, CIFAR, parquet, npz.

A file's name says nothing of its content, so a file is called what its owner calls it
(``data_name``), what its own metadata say, or its stem; never by guess.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dentbench.errors import DataError
from dentbench.spec import DataSpec
from dentbench.zoo.cards import ASSETS, DATASETS, DatasetCard
from dentbench.zoo.datafiles import RawData, read_cifar, read_npz, read_parquet, read_pictures
from dentbench.zoo.sources import Request, fetch_dataset_file
from dentbench.zoo.transfer import Progress
from dentbench.zoo.verify import Expected, problem_with

_READERS: Final = {".npz": read_npz, ".parquet": read_parquet}
MOST_CLASSES: Final = 100_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images (N, C, H, W), float32 in [0, 1]; labels (N,), int64 in [0, classes); a name."""

    name: str
    images: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)


def load_dataset(
    name_or_path: str,
    *,
    cache: Path | None = None,
    offline: bool = False,
    data_name: str | None = None,
    mirrors: Sequence[str] = (),
    progress: Progress | None = None,
) -> Dataset:
    """Return a data set by name or alias, or from a parquet, npz or CIFAR (torchvision) path.

    ``data_name`` names a file of one's own. CIFAR test sets that are not in ``cache`` are fetched,
    unless ``offline``. Raises :class:`~dentbench.errors.DataError` for a file that is missing or
    does not hold what it should, ``UnknownNameError`` or ``FetchError``.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path not in DATASETS and (_looks_like_path(name_or_path) or path.exists()):
        return _from_path(path, data_name)
    card = DATASETS[name_or_path]
    if data_name is not None and data_name != card.name:
        raise DataError(f"{card.id} is called {card.name!r}; --data-name is for files of your own")
    if card.source == "embedded":
        return _digits(card)
    if card.source == "foolbox":
        return _sample(card)
    request = Request(cache=cache, offline=offline, mirrors=tuple(mirrors), progress=progress)
    return _official(card, fetch_dataset_file(card, request))


def slice_of(
    dataset: Dataset, first: int = 0, count: int | None = None, *, order: str = "given"
) -> tuple[Tensor, Tensor, DataSpec]:
    """Return ``count`` images and labels from number ``first`` on (all that follow by default).

    They come in ``order`` (see :class:`~dentbench.spec.DataSpec`). The third value is the slice's
    spec; its hash is over the slice's shape, images and labels. Raises
    :class:`~dentbench.errors.DataError` beyond the end, SpecError for a bad order.
    """
    size = len(dataset)
    count = size - first if count is None else count
    if first < 0 or count < 1 or first + count > size:
        raise DataError(
            f"{dataset.name} has {size:,} images; {count:,} from number {first:,} on are not there"
        )
    images = dataset.images[first : first + count].contiguous()
    labels = dataset.labels[first : first + count].contiguous()
    spec = DataSpec(name=dataset.name, sha256="", first=first, count=count, order=order)
    if spec.window is not None:
        places = label_windows(labels, spec.window)
        images, labels = images[places], labels[places]
    total = hashlib.sha256(f"{tuple(images.shape)} {images.dtype} {labels.dtype}\n".encode())
    total.update(images.numpy().data)
    total.update(labels.numpy().data)
    return images, labels, replace(spec, sha256=total.hexdigest())


def label_windows(labels: Tensor, window: int) -> Tensor:
    """Return the order (N,) that sorts ``labels`` (N,) within windows of ``window`` images.

    Images of one label keep their order; the last window may be shorter. Source: the code of
    Chen et al., ICLR 2022 (arXiv 2110.14735), with windows of 256 and batches of 128.
    """
    parts = torch.arange(len(labels)).split(window)
    return torch.cat([part[torch.argsort(labels[part], stable=True)] for part in parts])


def _looks_like_path(text: str) -> bool:
    return Path(text).suffix in _READERS or "/" in text or "\\" in text


def _from_path(path: Path, data_name: str | None) -> Dataset:
    if not path.exists():
        raise DataError(f"there is no data file {path}")
    official = _cifar_at(path)
    if official is not None:
        return _official(*official, data_name)
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise DataError(
            f"{path} is not data that can be read; give a .parquet or .npz file or a folder with "
            f"{' or '.join(card.file for card in DATASETS.values() if card.file)}"
        )
    raw = reader(path)
    return checked(raw, path.name, data_name or raw.name or path.stem)


def _cifar_at(path: Path) -> tuple[DatasetCard, Path] | None:
    """The card and the test file of a folder, or file, in torchvision's CIFAR layout."""
    for card in DATASETS.values():
        if card.file:
            folder, _, file = card.file.partition("/")
            for candidate in (path / folder / file, path / file, path):
                right_folder = candidate.parent.name == folder
                if candidate.is_file() and candidate.name == file and right_folder:
                    return card, candidate
    return None


def _official(card: DatasetCard, path: Path, data_name: str | None = None) -> Dataset:
    """A CIFAR test file; it must be the official one, or be named by its owner."""
    reason = problem_with(path, Expected(md5=card.file_md5))
    if reason is not None and data_name is None:
        raise DataError(
            f"{path} is not the official {card.name}: {reason}; "
            "fetch it anew, or name the data yourself with --data-name"
        )
    return checked(
        read_cifar(path, card.label_key), path.name, data_name or card.name, card.classes
    )


def _digits(card: DatasetCard) -> Dataset:
    """The embedded digits' test images: pixels 0 to 16 become [0, 1]."""
    path = ASSETS / "digits.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            chosen = file["test"]
            pixels = file["images"][chosen].astype(np.float32) / 16
            labels = file["labels"][chosen]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the embedded digits cannot be read ({error}); reinstall") from error
    raw = RawData(images=pixels[:, None], labels=labels, classes=card.classes)
    return checked(raw, path.name, card.name)


SAMPLE_SIZE: Final = 20
_SAMPLE_FILE: Final = re.compile(r"cifar10_(\d\d)_(\d)\.png")


def _sample(card: DatasetCard) -> Dataset:
    """The example images of an installed foolbox, which is not imported: PNG, label in the name."""
    package = importlib.util.find_spec(card.source)
    if package is None or not package.submodule_search_locations:
        raise DataError(
            f"{card.id} is read from the package {card.source}, which is not installed; "
            "pip install 'dentbench[sample]'"
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    found = {
        int(match[1]): (path, int(match[2]))
        for path in folder.glob("*.png")
        if (match := _SAMPLE_FILE.fullmatch(path.name))
    }
    if sorted(found) != [*range(SAMPLE_SIZE)]:
        raise DataError(
            f"the installed {card.source} has {len(found)} of the {SAMPLE_SIZE} images of "
            f"{card.id}; pip install 'dentbench[sample]'"
        )
    ordered = [found[number] for number in range(SAMPLE_SIZE)]
    raw = RawData(
        images=read_pictures([path for path, _ in ordered]),
        labels=np.array([label for _, label in ordered]),
    )
    return checked(raw, card.id, card.name, card.classes)


def checked(raw: RawData, file: str, name: str, classes: int | None = None) -> Dataset:
    """Return raw arrays as a :class:`Dataset`, or raise ``DataError`` with what is wrong.

    ``raw.images`` is (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, uint8 in [0, 255] or
    floating-point in [0, 1]; ``raw.labels`` (N,) integers in [0, classes). ``file`` is how messages
    call the source.
    """
    images, labels = _images(raw.images, file), _labels(raw.labels, file)
    if len(images) != len(labels):
        raise DataError(f"{file} has {len(images):,} images but {len(labels):,} labels")
    classes = classes or raw.classes or int(labels.max()) + 1
    wrong = int(((labels < 0) | (labels >= min(classes, MOST_CLASSES))).sum())
    if wrong:
        raise DataError(
            f"{file} has {wrong:,} labels out of range, from {int(labels.min())} to "
            f"{int(labels.max())}; they must be 0 to {min(classes, MOST_CLASSES) - 1}"
        )
    return Dataset(name=name, images=images, labels=labels, classes=classes)


def _images(array: Any, file: str) -> Tensor:
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(
            f"{file} has images of shape {tuple(array.shape)}, not (N, C, H, W) or (N, H, W, C)"
        )
    array = _channels_first(array, file)
    if array.dtype == np.uint8:
        return torch.from_numpy(np.array(array, order="C")).float().div_(255)
    if array.dtype.kind != "f":
        raise DataError(f"{file} has images of type {array.dtype}; uint8 or floats are wanted")
    images = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{file} has pixels that are not finite numbers")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise DataError(
            f"{file} has pixels from {low:g} to {high:g}; they must be in [0, 1], not normalized"
        )
    return images


def _channels_first(array: Any, file: str) -> Any:
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if first == last:
        raise DataError(
            f"{file} has images of shape {tuple(array.shape)}, where "
            f"{'both the second and the last' if first else 'neither the second nor the last'} "
            "size can be the number of channels (1 or 3)"
        )
    return array if first else array.transpose(0, 3, 1, 2)


def _labels(array: Any, file: str) -> Tensor:
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{file} has labels of shape {tuple(array.shape)}; (N,) is wanted")
    if array.dtype.kind not in "iu":
        raise DataError(f"{file} has labels of type {array.dtype}; whole numbers are wanted")
    return torch.from_numpy(np.array(array, dtype=np.int64))
