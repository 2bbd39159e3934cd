"""Corruption sets (CIFAR-10-C, CIFAR-100-C): name them, and read Zenodo's files.

Source: Hendrycks and Dietterich, ICLR 2019 (arXiv 1903.12261). The names are torch-free.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from dentbench.errors import DataError, SpecError
from dentbench.registry import Registry
from dentbench.zoo.cards.dataset_cards import DatasetCard

if TYPE_CHECKING:
    from dentbench.zoo.images.datafiles import RawData

CORRUPTIONS: Final[Registry[str]] = Registry("corruption")
"""Each corruption and its kind; "extra" ones are not among the fifteen that are averaged."""

for _kind, _names in {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}.items():
    for _name in _names:
        dashed = (_name.replace("_", "-"),) if "_" in _name else ()
        CORRUPTIONS.add(_name, _kind, dashed)

FIFTEEN: Final = tuple(name for name, kind in CORRUPTIONS.items() if kind != "extra")
"""The corruptions that RobustBench, and everyone, averages over."""

SEVERITIES: Final = (1, 2, 3, 4, 5)
LABELS: Final = "labels"

_TITLE: Final = re.compile(r"(.+) (\w+), severity ([1-5])")


def title(name: str, corruption: str, severity: int) -> str:
    """Return the name of the images of a corruption, such as "CIFAR-10-C fog, severity 5"."""
    return f"{name} {corruption}, severity {severity}"


def parse_title(name: str) -> tuple[str, str, int] | None:
    """Return the set's name, the corruption and the severity of a :func:`title`; else None."""
    match = _TITLE.fullmatch(name)
    if match is None or match[2] not in CORRUPTIONS:
        return None
    return match[1], match[2], int(match[3])


def chosen(names: Sequence[str], severities: Sequence[int]) -> list[tuple[str, int]]:
    """Return each corruption at each severity; the fifteen, and severity 5, where none is named.

    Raises :class:`~dentbench.errors.SpecError` for others than there are.
    """
    for severity in severities:
        if severity not in SEVERITIES:
            raise SpecError(f"severity is {severity}; allowed: 1 to 5")
    chosen = [CORRUPTIONS.canonical(name) for name in names] or FIFTEEN
    return [(name, severity) for severity in severities or (5,) for name in chosen]


def folders_of(card: DatasetCard, place: Path) -> tuple[Path, ...]:
    """Return where the unpacked files may lie: in ``place`` or in its folder of the set's name."""
    return (place / card.name, place)


def read(
    card: DatasetCard, place: Path, corruption: str, severity: int, *, trusted: bool
) -> RawData:
    """Read a corruption of a severity below ``place``: unpacked files, or Zenodo's archive.

    Every file must be official by its MD5, unless ``trusted``. Images (N, 32, 32, 3) uint8,
    a fifth of the file; nothing else is read. Raises :class:`~dentbench.errors.DataError`.
    """
    from dentbench.zoo.images.datafiles import RawData

    arrays = []
    for stem in (corruption, LABELS):
        with _opened(card, place, stem) as file:
            if not trusted:
                _refuse_other(card, stem, file)
            arrays.append(_part(file, f"{stem}.npy", severity))
    return RawData(images=arrays[0], labels=arrays[1], classes=card.classes)


@contextmanager
def _opened(card: DatasetCard, place: Path, stem: str) -> Iterator[IO[bytes]]:
    """Open a .npy file, in a folder or inside the archive, which stores it as it is."""
    for folder in folders_of(card, place):
        path = folder / f"{stem}.npy"
        if path.is_file():
            with path.open("rb") as file:
                yield file
            return
    archive = place / f"{card.name}.tar"
    if not archive.is_file():
        raise DataError(
            f"{stem}.npy of {card.name} is not below {place}; dentbench fetch --dataset {card.id} "
            f"brings it (2.9 GB), --data-dir names the folder with {card.name}/*.npy"
        )
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"{card.name}/{stem}.npy")
            if member is None:
                raise KeyError(f"{stem}.npy is no file")
            with member:
                yield member
    except (tarfile.TarError, KeyError, OSError) as error:
        raise DataError(f"{archive.name} cannot be read ({error}); fetch it anew") from error


def _refuse_other(card: DatasetCard, stem: str, file: IO[bytes]) -> None:
    actual = hashlib.file_digest(file, "md5").hexdigest()  # type: ignore[arg-type]
    official = card.corruptions[stem]
    if actual != official:
        raise DataError(
            f"{stem}.npy is not the official file of {card.name}: its md5 is {actual[:12]}..., not "
            f"{official[:12]}...; fetch it anew, or name the data yourself with --data-name"
        )
    file.seek(0)


def _part(file: IO[bytes], name: str, severity: int) -> Any:
    """Read the severity's fifth of the rows of a .npy file of unsigned bytes."""
    import numpy as np

    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"its format is {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.kind not in "iu" or fortran or not shape or shape[0] % 5:
            raise ValueError(f"it holds {dtype} of shape {shape}")
        rows = shape[0] // 5
        size = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        file.seek((severity - 1) * rows * size, 1)
        content = file.read(rows * size)
        if len(content) != rows * size:
            raise ValueError("it is truncated")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{name} is not a file of a corruption set ({error})") from error
    return np.frombuffer(content, dtype).reshape(rows, *shape[1:])
