"""Decode pictures as they are asked for, preprocessed as RobustBench does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dentbench.errors import DataError
from dentbench.validation import suggestion
from dentbench.zoo.file_kinds import HEAD
from dentbench.zoo.images import picture_modes


@dataclass(frozen=True, kw_only=True)
class PicturePreprocessing:
    """The steps of a picture: resized, then its middle cut out; None leaves a step out.

    ``short``: pixels of its shorter side after resizing; ``both``: of both sides. ``crop``: of both
    sides of the crop, filled up with black where the picture is smaller.
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

    All of one size after ``preprocessing``; of three channels, or all ``gray`` and of one channel.
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
                    f"{_size(array)}; bring them to one size by --preprocess with one of "
                    f"{', '.join(PREPROCESSINGS)}"
                )
        pixels = np.stack(arrays)
        pixels = pixels[:, None] if self.gray else pixels.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(255)

    def _decoded(self, path: Path) -> Any:
        """Return a picture's pixels, uint8 (H, W, 3), or (H, W) of a gray picture."""
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
    """Return whether a picture has one channel; False for another file."""
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
