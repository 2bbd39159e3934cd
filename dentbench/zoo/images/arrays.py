"""From raw arrays to a checked data set, and from a data set to a slice of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from dentbench.errors import DataError
from dentbench.spec.evaluation import DataSpec
from dentbench.zoo.images.datafiles import RawData

MOST_CLASSES: Final = 100_000

ROUNDING: Final = 1e-6
"""How far beyond [0, 1] rounding leaves a pixel, as that of a resized image; it is clipped."""


class Images(Protocol):
    """Images in order, of which a slice is a tensor: a tensor, or files decoded when asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, part: slice, /) -> Tensor:
        """Return images (n, C, H, W), float32 in [0, 1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Images (N, C, H, W), float32 in [0, 1]; labels (N,), int64 in [0, classes); a name."""

    name: str
    images: Images
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)


def slice_of(
    dataset: Dataset, first: int = 0, count: int | None = None, *, order: str = "given"
) -> tuple[Tensor, Tensor, DataSpec]:
    """Return ``count`` images and labels from number ``first`` on (by default, all the rest).

    They come in ``order`` (see :class:`~dentbench.spec.evaluation.DataSpec`). The third value is
    the slice's spec; its hash is over the slice's shape, images and labels. Raises
    :class:`~dentbench.errors.DataError` beyond the end, SpecError for a bad order.
    """
    size = len(dataset)
    count = size - first if count is None else count
    if first < 0 or count < 1 or first + count > size:
        wanted = f"{count:,} from number {first:,} on are" if count > 0 else f"number {first:,} is"
        most = f"; ask for {size - first:,} at most" if 0 <= first < size and count > 0 else ""
        raise DataError(
            f"{dataset.name} has {size:,} images, from number 0 on; {wanted} not there{most}"
        )
    images = _of_its_own(dataset.images[first : first + count])
    labels = _of_its_own(dataset.labels[first : first + count])
    spec = DataSpec(name=dataset.name, sha256="", first=first, count=count, order=order)
    if spec.window is not None:
        places = label_windows(labels, spec.window)
        images, labels = images[places], labels[places]
    total = hashlib.sha256(f"{tuple(images.shape)} {images.dtype} {labels.dtype}\n".encode())
    total.update(images.numpy().data)
    total.update(labels.numpy().data)
    return images, labels, replace(spec, sha256=total.hexdigest())


def _of_its_own(values: Tensor) -> Tensor:
    """Return values in memory that holds no others: what keeps or sends a view does so with all."""
    values = values.contiguous()
    return values if values.untyped_storage().nbytes() == values.nbytes else values.clone()


def label_windows(labels: Tensor, window: int) -> Tensor:
    """Return the order (N,) that sorts ``labels`` (N,) within windows of ``window`` images.

    Images of one label keep their order; the last window may be shorter. Source: the code of
    Chen et al., ICLR 2022 (arXiv 2110.14735), with windows of 256 and batches of 128.
    """
    parts = torch.arange(len(labels)).split(window)
    return torch.cat([part[torch.argsort(labels[part], stable=True)] for part in parts])


def checked(raw: RawData, file: str, name: str, classes: int | None = None) -> Dataset:
    """Return raw arrays as a :class:`Dataset`, or raise ``DataError`` with the fault.

    ``raw.images`` is (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, uint8 in [0, 255] or
    floating-point in [0, 1]; ``raw.labels`` (N,) integers in [0, classes). ``file`` is how messages
    call the source.
    """
    images, labels = _images(raw.images, file), _labels(raw.labels, file)
    if len(images) != len(labels):
        raise DataError(f"{file} has {len(images):,} images but {len(labels):,} labels")
    declared = classes or raw.classes
    classes = declared or max(int(labels.max()) + 1, 1)
    wrong = int(((labels < 0) | (labels >= min(classes, MOST_CLASSES))).sum())
    if wrong:
        allowed = f"0 to {min(classes, MOST_CLASSES) - 1}" if declared else "whole numbers from 0"
        raise DataError(
            f"{file} has {wrong:,} labels out of range, from {int(labels.min())} to "
            f"{int(labels.max())}; they must be {allowed}"
        )
    return Dataset(name=name, images=images, labels=labels, classes=classes)


def _images(array: Any, file: str) -> Tensor:
    if 0 in array.shape:
        raise DataError(f"{file} has no images: their shape is {tuple(array.shape)}")
    if array.ndim != 4:
        hint = ""
        if array.ndim == 3:
            hint = "; gray images get a channel by images[:, None], a single image is images[None]"
        raise DataError(
            f"{file} has images of shape {tuple(array.shape)}, not (N, C, H, W) or (N, H, W, C)"
            f"{hint}"
        )
    array = _channels_first(array, file)
    if array.dtype == np.uint8:
        return torch.from_numpy(np.array(array, order="C")).float().div_(255)
    if array.dtype.kind != "f":
        hint = (
            ": images.astype('uint8') of pixels from 0 to 255" if array.dtype.kind in "iu" else ""
        )
        raise DataError(
            f"{file} has images of type {array.dtype}; uint8 or floats are wanted{hint}"
        )
    images = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"{file} has pixels that are not finite numbers")
    low, high = float(images.min()), float(images.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        hint = ", so divide them by 255" if low >= 0 and 1.5 < high <= 255 else ", not normalized"
        raise DataError(f"{file} has pixels from {low:g} to {high:g}; they must be in [0, 1]{hint}")
    return images.clamp_(0, 1)


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
        hint = ""
        if array.ndim == 2:
            hint = ": labels.argmax(1) of one-hot rows" if array.shape[1] > 1 else ": labels[:, 0]"
        raise DataError(f"{file} has labels of shape {tuple(array.shape)}; (N,) is wanted{hint}")
    if array.dtype.kind not in "iu":
        hint = ": labels.astype(int)"
        if array.dtype.kind not in "fb":
            hint = " from 0, in the order of the model's outputs; give each class its number"
        raise DataError(f"{file} has labels of type {array.dtype}; whole numbers are wanted{hint}")
    if int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{file} has labels up to {array.max()}; they must be whole numbers from 0")
    return torch.from_numpy(np.array(array, dtype=np.int64))
