"""Folders of pictures: one folder per class, and RobustBench's 5,000 images of ImageNet."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dentbench.errors import DataError
from dentbench.validation import suggestion
from dentbench.zoo import picture_modes
from dentbench.zoo.cards import DatasetCard
from dentbench.zoo.file_kinds import HEAD
from dentbench.zoo.picture_modes import SUFFIXES

_NOT_READ: Final = frozenset(
    {
        *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".psd", ".tga"),
        *(".dng", ".cr2", ".nef", ".arw", ".raw", ".exr", ".hdr", ".dcm", ".npy", ".eps", ".ico"),
    }
)
"""Suffixes of pictures in formats that are not read: leaving them out would not be seen."""


@dataclass(frozen=True, kw_only=True)
class PicturePreprocessing:
    """The steps of a picture: resized, then its middle cut out; None leaves a step out.

    ``short``: pixels of its shorter side after resizing; ``both``: of both sides. ``crop``: of both
    sides of what is cut out, filled up with black where the picture is smaller.
    """

    short: int | None = None
    both: int | None = None
    crop: int | None = None
    bicubic: bool = False

    def __call__(self, picture: Any) -> Any:
        """Return the picture, a PIL image, resized and cut as torchvision does it."""
        if self.short is not None or self.both is not None:
            picture = picture.resize(self._size(*picture.size), 3 if self.bicubic else 2)
        return picture if self.crop is None else _middle(picture, self.crop)

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if self.both is not None:
            return self.both, self.both
        assert self.short is not None
        if width <= height:
            return self.short, int(self.short * height / width)
        return int(self.short * width / height), self.short


def _middle(picture: Any, size: int) -> Any:
    from PIL import ImageOps

    width, height = picture.size
    missing_x, missing_y = max(size - width, 0), max(size - height, 0)
    if missing_x or missing_y:
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        picture = ImageOps.expand(picture, border)
        width, height = picture.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


PREPROCESSINGS: Final = MappingProxyType(
    {
        "Res256Crop224": PicturePreprocessing(short=256, crop=224),
        "BicubicRes256Crop224": PicturePreprocessing(short=256, crop=224, bicubic=True),
        "BicubicRes224Crop224": PicturePreprocessing(short=224, crop=224, bicubic=True),
        "Res224": PicturePreprocessing(both=224),
        "Crop288": PicturePreprocessing(crop=288),
    }
)
"""RobustBench's preprocessings of ImageNet's pictures, by name (the third is of timm's XCiT)."""


class Pictures:
    """Files of pictures in order, decoded when they are asked for: (n, C, H, W) in [0, 1].

    All of one size after ``preprocessing``; of three channels, or all ``gray`` and of one.
    ``upright``: turned as their EXIF orientation says.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: PicturePreprocessing | None,
        *,
        gray: bool = False,
        upright: bool = True,
    ) -> None:
        self.paths = tuple(paths)
        self.preprocessing = preprocessing
        self.gray = gray
        self.upright = upright

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice) -> Tensor:
        """Decode some of them; raises :class:`~dentbench.errors.DataError`."""
        paths = self.paths[part]
        arrays = [self._decoded(path) for path in paths]
        for path, array in zip(paths, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise DataError(
                    f"{paths[0].name} is of size {_size(arrays[0])} and {path.name} of "
                    f"{_size(array)}; name what makes them one size with --preprocess, one of "
                    f"{', '.join(PREPROCESSINGS)}"
                )
        pixels = np.stack(arrays)
        pixels = pixels[:, None] if self.gray else pixels.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(255)

    def _decoded(self, path: Path) -> Any:
        """Return a picture's pixels, uint8 (H, W, 3), or (H, W) of a gray one."""
        from PIL import Image

        try:
            with Image.open(path) as picture:
                if self.gray and not picture_modes.is_gray(picture):
                    raise ValueError("it has colors, and the first picture is gray")
                plain = picture_modes.plain(picture, upright=self.upright)
                plain = plain.convert("L" if self.gray else "RGB")
                return np.asarray(self.preprocessing(plain) if self.preprocessing else plain)
        except Exception as error:  # PIL raises many kinds for damaged files
            head = path.read_bytes()[:HEAD] if path.is_file() else b""
            words = picture_modes.reason(error, head) if path.is_file() else "a link to nothing"
            raise DataError(f"{path} is not a picture that can be read ({words})") from error


def _size(pixels: Any) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def is_gray(path: Path) -> bool:
    """Return whether a picture has one channel; False for what is no picture."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture_modes.is_gray(picture)
    except Exception:  # refused when it is decoded
        return False


def preprocessing_named(name: str | None) -> PicturePreprocessing | None:
    """Return the preprocessing of a name; None for "" and None."""
    if name and name not in PREPROCESSINGS:
        raise DataError(
            f"preprocess is {name!r}; allowed: {', '.join(PREPROCESSINGS)}"
            f"{suggestion(name, PREPROCESSINGS)}"
        )
    return PREPROCESSINGS[name] if name else None


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
    """Refuse folders in the place of classes whose own folders are the classes.

    Such have no picture beside these; there is a single one, or all have several of the same names.
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
    """Return folders by name, or by number where every name is one, as "2" before "10"."""
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
            "and the installed one lacks it; install robustbench>=1.1.1"
        ) from error


def imagenet(card: DatasetCard, place: Path) -> tuple[list[Path], list[int]]:
    """Return the pictures and labels of RobustBench's list, found below ``place``.

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
                    f"{folder}, for one {lacking[0].name}; unpack the whole validation set"
                )
            return paths, [number for _, number in listed]
    raise DataError(
        f"the images of {card.name} are not below {place}; ImageNet is not free to download: get "
        "ILSVRC2012_img_val.tar from image-net.org, unpack it and name its folder with --data-dir"
    )
