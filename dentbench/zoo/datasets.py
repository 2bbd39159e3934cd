"""From a name or a file to images in [0, 1] with labels: embedded, CIFAR, pictures, npz, ...

A file's name says nothing of its content, so a file has the name that its owner gives
(``data_name``), that of its own metadata, or its stem; never a guess.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from dentbench.errors import DataError
from dentbench.paths import expanded
from dentbench.zoo.cards.dataset_cards import DATASETS, DatasetCard
from dentbench.zoo.cards.model_cards import ASSETS
from dentbench.zoo.data_choice import DataChoice
from dentbench.zoo.download.sources import FetchOptions, fetch_dataset_file
from dentbench.zoo.download.verify import Expected, problem_with
from dentbench.zoo.images import corruptions, picture_folders, pictures
from dentbench.zoo.images.arrays import Dataset, checked
from dentbench.zoo.images.datafiles import (
    SAVE,
    RawData,
    read_cifar,
    read_npz,
    read_parquet,
    read_pictures,
)

_READERS: Final = {".npz": read_npz, ".parquet": read_parquet}

IMAGENET_DEFAULT: Final = "Res256Crop224"
"""The preprocessing of ImageNet's pictures for a model that does not say, as RobustBench does."""


def load_dataset(
    name_or_path: str,
    choice: DataChoice | None = None,
    *,
    data_name: str | None = None,
    **where: Any,
) -> Dataset:
    """Return a data set by name or alias, or from a parquet, npz, CIFAR or pictures' path.

    ``choice``, or ``data_name`` alone, says more of it; ``where``: the fields of
    :class:`~dentbench.zoo.download.sources.FetchOptions`: cache, offline, mirrors, progress.
    CIFAR test sets that the cache lacks are fetched, unless offline. Raises
    :class:`~dentbench.errors.DataError` for a file that is missing or does not hold such
    data, ``UnknownNameError`` or ``FetchError``.
    """
    choice = choice or DataChoice(data_name=data_name)
    path = expanded(name_or_path)
    if name_or_path not in DATASETS and (_looks_like_path(name_or_path) or path.exists()):
        return _from_path(path, choice)
    card = DATASETS[name_or_path]
    _refuse_unused(card, choice)
    if card.source == "embedded":
        return _digits(card)
    if card.source == "foolbox":
        return _sample(card)
    request = FetchOptions(**where)
    if card.source == "folder":
        return _imagenet(card, choice, request.folder)
    if card.corruptions:
        return _corrupted(card, choice, request)
    return _official(card, fetch_dataset_file(card, request))


def own_name(name: str) -> str:
    """Return the name of a user's own data: as given, marked where it is an official name.

    Only data with the official checksum has an official name, whatever a file is called.
    """
    plain = _plain(name)
    official = {_plain(name) for card in DATASETS.values() for name in (card.id, card.name)}
    return f"{name} (own data)" if {plain, plain.removesuffix("test")} & official else name


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _refuse_unused(card: DatasetCard, choice: DataChoice) -> None:
    named = choice.data_name is not None and choice.data_name != card.name
    if named and not card.corruptions:
        raise DataError(f"{card.id} is called {card.name!r}; --data-name is for files of your own")
    if choice.folder is not None and not (card.corruptions or card.source == "folder"):
        raise DataError(f"--data-dir is for imagenet and the corruption sets, not for {card.id}")
    if choice.preprocess is not None and card.source != "folder":
        raise DataError(f"--preprocess is for pictures, and {card.id} has images of one size")


def _imagenet(card: DatasetCard, choice: DataChoice, cache: Path) -> Dataset:
    paths, labels = picture_folders.imagenet(card, choice.folder or cache / "data")
    name = choice.preprocess or choice.resize or IMAGENET_DEFAULT
    # As RobustBench reads them, which turns none by its EXIF orientation.
    images = pictures.Pictures(paths, pictures.preprocessing_named(name), upright=False)
    return Dataset(name=card.name, images=images, labels=torch.tensor(labels), classes=card.classes)


def _corrupted(card: DatasetCard, choice: DataChoice, request: FetchOptions) -> Dataset:
    """Read a corruption at a severity, of the folder given, of the cache, or fetched."""
    if choice.corruption is None or choice.severity is None:
        raise DataError(f"{card.id} has many parts; name a corruption and a severity")
    if choice.folder is None:
        fetch_dataset_file(card, request)
    own = choice.data_name
    raw = corruptions.read(
        card,
        choice.folder or request.folder / "data",
        choice.corruption,
        choice.severity,
        trusted=own is not None,
    )
    name = corruptions.title(
        own_name(own) if own else card.name, choice.corruption, choice.severity
    )
    return checked(raw, f"{choice.corruption}.npy", name, card.classes)


def _looks_like_path(text: str) -> bool:
    return Path(text).suffix in _READERS or "/" in text or "\\" in text


def _from_path(path: Path, choice: DataChoice) -> Dataset:
    if choice.folder is not None:
        raise DataError("--data-dir is for imagenet and the corruption sets; a path needs none")
    if path.parts and path.parts[0] in ("http:", "https:", "s3:", "gs:", "hf:"):
        raise DataError(f"{path} is an address; download the data and name the file")
    if not path.exists():
        raise DataError(f"there is no data file {path}; name one with --data")
    official = _cifar_at(path)
    if official is not None:
        return _official(*official, choice.data_name)
    if path.is_dir():
        return _pictures(path, choice)
    if choice.preprocess is not None:
        raise DataError(f"--preprocess is for folders of pictures, and {path.name} is a file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path} is not data that can be read; give a .parquet or .npz file "
            f"({SAVE}), a folder with "
            f"{' or '.join(card.file for card in DATASETS.values() if card.file)}, or a folder of "
            "pictures with one folder per class"
        )
    raw = reader(path)
    return checked(raw, path.name, own_name(choice.data_name or raw.name or path.stem))


def _pictures(path: Path, choice: DataChoice) -> Dataset:
    """Read a user's folder with one folder per class."""
    paths, labels, classes = picture_folders.classes_in(path)
    preprocessing = pictures.preprocessing_named(choice.preprocess or choice.resize)
    images = pictures.Pictures(paths, preprocessing, gray=all(map(pictures.is_gray, paths)))
    name = own_name(choice.data_name or path.resolve().name)
    return Dataset(name=name, images=images, labels=torch.tensor(labels), classes=classes)


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
    """Read a CIFAR test file; it must be the official file, or be named by its owner."""
    if path.suffix == ".parquet":  # the cache's own, verified
        return checked(read_parquet(path), path.name, card.name, card.classes)
    reason = problem_with(path, Expected(md5=card.file_md5))
    if reason is not None and data_name is None:
        raise DataError(
            f"{path} is not the official {card.name}: {reason}; "
            "fetch it anew, or name the data yourself with --data-name"
        )
    if reason is None and data_name in (None, card.name):
        name = card.name
    else:
        name = own_name(data_name or card.name)
    return checked(read_cifar(path, card.label_key), path.name, name, card.classes)


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
    samples = {
        int(match[1]): (path, int(match[2]))
        for path in folder.glob("*.png")
        if (match := _SAMPLE_FILE.fullmatch(path.name))
    }
    if sorted(samples) != [*range(SAMPLE_SIZE)]:
        raise DataError(
            f"the installed {card.source} has {len(samples)} of the {SAMPLE_SIZE} images of "
            f"{card.id}; pip install 'dentbench[sample]'"
        )
    ordered = [samples[number] for number in range(SAMPLE_SIZE)]
    raw = RawData(
        images=read_pictures([path for path, _ in ordered]),
        labels=np.array([label for _, label in ordered]),
    )
    return checked(raw, card.id, card.name, card.classes)
