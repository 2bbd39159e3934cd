"""Find pictures in folders: one folder per class, and RobustBench's 5,000 images of ImageNet."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from dentbench.errors import DataError
from dentbench.zoo.cards.dataset_cards import DatasetCard
from dentbench.zoo.images.picture_modes import SUFFIXES

_NOT_READ: Final = frozenset(
    {
        *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".psd", ".tga"),
        *(".dng", ".cr2", ".nef", ".arw", ".raw", ".exr", ".hdr", ".dcm", ".npy", ".eps", ".ico"),
    }
)
"""Suffixes of pictures in formats that are not read: leaving them out would not be seen."""

FOREIGN: Final = frozenset(
    {
        *("__MACOSX", "__pycache__", "lost+found", "$RECYCLE.BIN", "@eaDir", "#recycle"),
        "System Volume Information",
    }
)
"""Folders that other programs leave; so are all whose names begin with a dot."""

SPLITS: Final = frozenset({"train", "test", "val", "valid", "validation", "training", "testing"})
"""Names of a data set's parts; a folder of these alone holds no classes."""


def classes_in(folder: Path) -> tuple[list[Path], list[int], int]:
    """Return pictures, labels and the number of classes of a folder with one folder per class.

    Classes are numbered in the order of their names, as torchvision's ``ImageFolder`` does; where
    all names are whole numbers, in the order of these. Hidden folders and files, and those that
    other programs leave, are skipped. Raises :class:`~dentbench.errors.DataError` for a class
    without a picture, for folders of a data set's parts, such as train/ and test/, or of its
    classes in turn, and for pictures in a format that is not read.
    """
    classes = _in_order(path for path in folder.iterdir() if path.is_dir() and _is_own(path))
    parts = [path.name for path in classes if path.name.lower() in SPLITS]
    if len(parts) > 1 or (parts and len(parts) == len(classes)):
        raise DataError(
            f"{folder} has the folders {', '.join(parts)}, which are parts of a data set, not "
            f"classes; name one of them, such as {folder / parts[0]}"
        )
    pictures_of = [_pictures_below(below) for below in classes]
    if not any(pictures_of):
        raise DataError(
            f"{folder} has no pictures in folders of their classes (such as cat/1.png); "
            f"pictures end in {', '.join(sorted(SUFFIXES))}"
        )
    empty = [
        below.name for below, pictures in zip(classes, pictures_of, strict=True) if not pictures
    ]
    if empty:
        raise DataError(
            f"{folder} has class folders without a picture: {', '.join(empty)}; each folder is a "
            "class and has its number, so fill them or take them away"
        )
    _require_no_parts(folder, dict(zip(classes, pictures_of, strict=True)))
    paths = [path for pictures in pictures_of for path in pictures]
    labels = [number for number, pictures in enumerate(pictures_of) for _ in pictures]
    return paths, labels, len(classes)


def _require_no_parts(folder: Path, pictures: Mapping[Path, Sequence[Path]]) -> None:
    """Refuse folders that lie where classes should, and whose own folders are the classes.

    They hold no picture beside these; there is a single folder, or all hold several of the same
    names.
    """
    inner = {
        below: {path.relative_to(below).parts[0] for path in paths}
        if all(path.parent != below for path in paths)
        else set()
        for below, paths in pictures.items()
    }
    split = [below for below, names in inner.items() if names and below.name.lower() in SPLITS]
    first = next(iter(inner.values()))
    same = bool(first) and all(names == first for names in inner.values())
    same = same and (len(inner) == 1 or len(first) > 1)  # each class may have a folder "images"
    if split or same:
        chosen = split[0] if split else next(iter(inner))
        raise DataError(
            f"{folder} has no folders of classes but {', '.join(below.name for below in inner)}, "
            f"with folders in turn ({', '.join(sorted(inner[chosen])[:3])}); name the folder "
            f"whose folders are the classes, such as {chosen}"
        )


def _in_order(folders: Iterable[Path]) -> list[Path]:
    """Return folders by name, or by number where every name is a number, as "2" before "10"."""
    ordered = sorted(folders)
    if not all(path.name.isascii() and path.name.isdecimal() for path in ordered):
        return ordered
    numbers = [int(path.name) for path in ordered]
    if len({*numbers}) < len(numbers):
        raise DataError(f"{ordered[0].parent} has two folders of the same number")
    return sorted(ordered, key=lambda path: int(path.name))


def _pictures_below(folder: Path) -> list[Path]:
    """Return the pictures at any depth below a folder, links that lead nowhere among them."""
    files = [
        path
        for path in folder.rglob("*")
        if (path.is_file() or not path.exists())
        and all(map(_is_own, [path, *path.relative_to(folder).parents[:-1]]))
    ]
    lost = next((path for path in files if path.suffix.lower() in _NOT_READ), None)
    if lost is not None:
        raise DataError(
            f"{lost} is of a format that is not read; save it as PNG, or take it away: pictures "
            f"end in {', '.join(sorted(SUFFIXES))}"
        )
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def _is_own(path: Path) -> bool:
    """Return whether a path is the data set's: not hidden, nor left by another program."""
    return not path.name.startswith(".") and path.name not in FOREIGN


# --- ImageNet -------------------------------------------------------------------------------------


def robustbench_list() -> list[tuple[str, int]]:
    """Return RobustBench's 5,000 validation images: path below ``val/``, and class number.

    Read from the installed package, which is not imported. Raises
    :class:`~dentbench.errors.DataError` where it is not there.
    """
    spec = importlib.util.find_spec("robustbench")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    try:
        folder = Path(places[0]) / "helper_files"
        names = (folder / "imagenet_test_image_ids.txt").read_text(encoding="utf-8").split()
        numbers = json.loads((folder / "imagenet_class_to_id_map.json").read_text(encoding="utf-8"))
        return [(name, int(numbers[name.partition("/")[0]])) for name in names]
    except (IndexError, OSError, ValueError, KeyError) as error:
        raise DataError(
            "the list of RobustBench's 5,000 ImageNet images comes with the package robustbench, "
            "and the installed version lacks it; install robustbench>=1.1.1"
        ) from error


def imagenet(card: DatasetCard, place: Path) -> tuple[list[Path], list[int]]:
    """Return the pictures and labels of RobustBench's list, which lie below ``place``.

    They lie in ``val/SYNSET/NAME.JPEG`` as RobustBench wants them, or in ``val/`` as the archive
    unpacks, in ``place`` itself or in its folder ``imagenet``.
    """
    listed = robustbench_list()
    for folder in (place / "val", place, place / "imagenet" / "val", place / "imagenet"):
        for flat in (False, True):
            paths = [folder / (name.rpartition("/")[2] if flat else name) for name, _ in listed]
            if not paths[0].is_file():
                continue
            lacking = [path for path in paths if not path.is_file()]
            if lacking:
                raise DataError(
                    f"{len(lacking):,} of the {len(paths):,} images of {card.name} are not in "
                    f"{folder}, such as {lacking[0].name}; unpack the whole validation set"
                )
            return paths, [number for _, number in listed]
    raise DataError(
        f"the images of {card.name} are not below {place}; ImageNet is not free to download: get "
        "ILSVRC2012_img_val.tar from image-net.org, unpack it and name its folder with --data-dir"
    )
