"""Where the cards' files come from, and how they are fetched. Torch-free."""

from __future__ import annotations

import functools
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dentbench.errors import FetchError
from dentbench.paths import expanded
from dentbench.zoo.cards.dataset_cards import DatasetCard
from dentbench.zoo.cards.model_cards import ModelCard
from dentbench.zoo.download.cache import all_mirrors, default_cache, fetch_file, is_offline
from dentbench.zoo.download.cached_files import dataset_paths, model_paths
from dentbench.zoo.download.transfer import Policy, Progress

LARGEST_MEMBER: Final = 1 << 30
"""Bytes that a file taken from an archive may have."""


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How to fetch: the cache folder, mirrors before the cards' own sources, a file by hand.

    ``by_hand`` is a local path or a URL that replaces every other source.
    """

    cache: Path | None = None
    offline: bool = False
    mirrors: tuple[str, ...] = ()
    by_hand: str | None = None
    progress: Progress | None = None
    policy: Policy | None = None

    @property
    def folder(self) -> Path:
        """The cache folder."""
        return self.cache if self.cache is not None else default_cache()

    def candidates(self, relative: str, own: str) -> list[str]:
        """Return the sources of one file, in order; ``relative`` is its path in the cache."""
        if self.by_hand is not None:
            return [self.by_hand]
        return [f"{mirror}/{relative}" for mirror in all_mirrors(self.mirrors)] + [own]


def expected_bytes(card: ModelCard | DatasetCard) -> int:
    """Return about how many bytes fetching a card's files brings."""
    if isinstance(card, DatasetCard):
        return card.archive_size or 30_000_000
    return 4 * card.parameters


def amount(card: ModelCard | DatasetCard) -> str:
    """Return in words the files that fetching a card brings, and their size."""
    if isinstance(card, DatasetCard) and card.corruptions:
        return f"its archive, {card.archive_size / 1e9:.1f} GB"
    if isinstance(card, DatasetCard):
        return "its test file (30 MB; 170 MB where only the whole archive is offered)"
    return f"{card.architecture}, about {expected_bytes(card) / 1e6:.0f} MB"


def links(card: ModelCard | DatasetCard) -> tuple[str, ...]:
    """Return the addresses that a person can open to get a card's files; none if installed.

    Of Google Drive it is the page of the file.
    """
    addresses: tuple[str, ...] = ()
    if isinstance(card, DatasetCard):
        addresses = (
            (card.archive_url, card.parquet_url) if card.source == "download" else (card.url,)
        )
    elif card.source == "robustbench":
        addresses = card.weights
    page = "https://drive.google.com/file/d/{}/view"
    drive = "gdrive:"
    return tuple(
        page.format(address.removeprefix(drive)) if address.startswith(drive) else address
        for address in addresses
        if address
    )


def fetch_model_files(
    card: ModelCard, request: FetchOptions, check: Callable[[int, Path], object]
) -> list[Path]:
    """Return the paths of a RobustBench model's checkpoint files, fetching those that lack.

    ``check(number, path)`` refuses, by raising, a file that is not the checkpoint of that number.
    Raises :class:`~dentbench.errors.FetchError`.
    """
    relatives = model_paths(card)
    if request.by_hand is not None and len(relatives) > 1:
        raise FetchError(
            f"{card.id} consists of {len(relatives)} files, so a single file cannot be imported; "
            f"place them in {(request.folder / relatives[0]).parent} as "
            f"{', '.join(Path(path).name for path in relatives)}"
        )
    return [
        fetch_file(
            request.candidates(relative, own),
            request.folder / relative,
            offline=request.offline,
            progress=request.progress,
            check=functools.partial(check, index),
            record=request.folder,
            hint=_hint("model", card.id),
            policy=request.policy,
        )
        for index, (relative, own) in enumerate(zip(relatives, card.weights, strict=True))
    ]


def _hint(kind: str, name: str) -> str:
    return (
        f"dentbench fetch --{kind} {name} --from FILE imports a copy from elsewhere, "
        "--mirror URL adds a source"
    )


def fetch_dataset_file(card: DatasetCard, request: FetchOptions) -> Path:
    """Return the path of a data set's file, fetching it where it lacks.

    Of CIFAR the test batch alone is kept. A source may hold it alone (tried first on mirrors) or
    the whole archive, or its pictures as a parquet file, which is identified by its first pictures.
    Of a corruption set it is Zenodo's archive. Raises :class:`~dentbench.errors.FetchError`.
    """
    if card.source == "folder":
        raise FetchError(
            f"{card.id} is not free to download; get its validation set from {card.url}, unpack "
            "it and name its folder with dentbench evaluate --data-dir"
        )
    by_hand = request.by_hand or ""
    if by_hand and expanded(by_hand).is_dir():
        raise FetchError(
            f"{by_hand} is a folder, and --from imports a single file; name a folder with "
            "dentbench evaluate --data-dir or --data"
        )
    if card.corruptions:
        return _fetch_archive(card, request)
    plain, parquet = (request.folder / path for path in dataset_paths(card))
    if by_hand.endswith(".parquet") or (parquet.is_file() and not plain.is_file()):
        return _fetch_parquet(card, request, parquet)
    try:
        return _fetch_test_file(card, request, plain)
    except FetchError as error:
        if by_hand or is_offline(request.offline) or not card.parquet_url:
            raise
        try:
            return _fetch_parquet(card, request, parquet)
        except FetchError as second:
            raise FetchError(f"{error}; then as pictures: {second}") from second


def _fetch_test_file(card: DatasetCard, request: FetchOptions, path: Path) -> Path:
    archive = card.archive_url.rpartition("/")[2]
    sources = request.candidates(card.file, "")[:-1] if request.by_hand is None else []
    return fetch_file(
        sources + request.candidates(archive, card.archive_url),
        path,
        md5=card.file_md5,
        unpack=functools.partial(take_member, card.file),
        **_how(card, request),
    )


def _fetch_parquet(card: DatasetCard, request: FetchOptions, path: Path) -> Path:
    from dentbench.zoo.images.datafiles import check_pictures

    relative = path.relative_to(request.folder / "data").as_posix()
    return fetch_file(
        request.candidates(relative, card.parquet_url),
        path,
        check=functools.partial(check_pictures, card),
        **_how(card, request),
    )


def _fetch_archive(card: DatasetCard, request: FetchOptions) -> Path:
    archive, labels = (request.folder / path for path in dataset_paths(card))
    if labels.is_file() and not archive.is_file() and request.by_hand is None:
        return labels  # unpacked by hand; every file is verified when it is read
    return fetch_file(
        request.candidates(archive.name, card.archive_url),
        archive,
        md5=card.archive_md5,
        size=card.archive_size,
        **_how(card, request),
    )


def _how(card: DatasetCard, request: FetchOptions) -> dict[str, Any]:
    return {
        "offline": request.offline,
        "progress": request.progress,
        "record": request.folder,
        "hint": _hint("dataset", card.id),
        "policy": request.policy,
    }


def take_member(member: str, path: Path) -> None:
    """Replace a tar archive by a file in it; anything but an archive stays as it is.

    Raises ``tarfile.TarError``, ``OSError`` or ``KeyError`` for a damaged or foreign archive.
    """
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return
    taken = path.with_name(path.name + ".member")
    with tarfile.open(path) as archive:
        entry = archive.getmember(member)
        content = archive.extractfile(entry)
        if content is None or entry.size > LARGEST_MEMBER:
            raise tarfile.TarError(f"{member} in the archive is not a file of a sane size")
        with content, taken.open("wb") as file:
            shutil.copyfileobj(content, file)
    taken.replace(path)
