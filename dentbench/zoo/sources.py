"""Where the cards' files belong in the cache and where they come from. Torch-free."""

from __future__ import annotations

import functools
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dentbench.errors import FetchError
from dentbench.zoo.cache import all_mirrors, default_cache, fetch_file
from dentbench.zoo.cards import DatasetCard, ModelCard
from dentbench.zoo.transfer import Policy, Progress
from dentbench.zoo.verify import Expected, Record, problem_with

LARGEST_MEMBER: Final = 1 << 30
"""Bytes that a file taken from an archive may have."""


@dataclass(frozen=True, kw_only=True)
class Request:
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


def model_paths(card: ModelCard) -> tuple[str, ...]:
    """Return the paths in the cache of a model's checkpoint files, in RobustBench's layout."""
    base = f"models/{card.dataset}/{card.threat_model}/{card.source_id}.pt"
    if len(card.weights) == 1:
        return (base,)
    return tuple(f"{base}_m{index}.pt" for index in range(len(card.weights)))


def dataset_path(card: DatasetCard) -> str:
    """Return the path in the cache of a data set's file, in torchvision's layout below data/."""
    return f"data/{card.file}"


def cached_paths(card: ModelCard | DatasetCard) -> tuple[str, ...]:
    """Return the paths in the cache that a card's files have; none for what is embedded."""
    if isinstance(card, DatasetCard):
        return (dataset_path(card),) if card.file else ()
    return model_paths(card) if card.source == "robustbench" else ()


def is_cached(card: ModelCard | DatasetCard, folder: Path) -> bool:
    """Return whether a card's files are all there; what is embedded always is."""
    return all((folder / path).is_file() for path in cached_paths(card))


def size_of(card: ModelCard | DatasetCard, folder: Path) -> int:
    """Return how many bytes of the cache folder a card's files take."""
    paths = (folder / path for path in cached_paths(card))
    return sum(path.stat().st_size for path in paths if path.is_file())


def expected_bytes(card: ModelCard | DatasetCard) -> int:
    """Return about how many bytes fetching a card's files brings."""
    return 30_000_000 if isinstance(card, DatasetCard) else 4 * card.parameters


def amount(card: ModelCard | DatasetCard) -> str:
    """Return in words what fetching a card brings, and how much of it."""
    if isinstance(card, DatasetCard):
        return "its test file (30 MB; 170 MB where only the whole archive is offered)"
    return f"{card.architecture}, about {expected_bytes(card) / 1e6:.0f} MB"


def problems(card: ModelCard | DatasetCard, folder: Path) -> list[str]:
    """Return what is wrong with a card's cached files, by the published or recorded hashes."""
    known = Expected(md5=card.file_md5) if isinstance(card, DatasetCard) else Expected()
    found = []
    for relative in cached_paths(card):
        path = folder / relative
        if path.is_file():
            reason = problem_with(path, Record(folder).expected(path, known))
            found += [f"{path}: {reason}"] if reason is not None else []
    return found


def remove(card: ModelCard | DatasetCard, folder: Path) -> int:
    """Remove a card's files from the cache, with what is recorded of them; return how many."""
    present = [folder / path for path in cached_paths(card) if (folder / path).is_file()]
    for path in present:
        Record(folder).forget(path)
        path.unlink()
    return len(present)


def fetch_model_files(
    card: ModelCard, request: Request, check: Callable[[int, Path], object]
) -> list[Path]:
    """Return the paths of a RobustBench model's checkpoint files, fetching those that lack.

    ``check(number, path)`` refuses, by raising, a file that is not the checkpoint of that number.
    Raises :class:`~dentbench.errors.FetchError`.
    """
    relatives = model_paths(card)
    if request.by_hand is not None and len(relatives) > 1:
        raise FetchError(
            f"{card.id} consists of {len(relatives)} files, so it cannot be imported from one; "
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


def fetch_dataset_file(card: DatasetCard, request: Request) -> Path:
    """Return the path of a data set's test file, fetching it where it lacks.

    Each source may hold the test file alone (tried first on mirrors) or the whole archive, of
    which the test file is kept. Raises :class:`~dentbench.errors.FetchError`.
    """
    archive = card.archive_url.rpartition("/")[2]
    sources = request.candidates(card.file, "")[:-1] if request.by_hand is None else []
    return fetch_file(
        sources + request.candidates(archive, card.archive_url),
        request.folder / dataset_path(card),
        md5=card.file_md5,
        offline=request.offline,
        progress=request.progress,
        unpack=functools.partial(take_member, card.file),
        record=request.folder,
        hint=_hint("dataset", card.id),
        policy=request.policy,
    )


def take_member(member: str, path: Path) -> None:
    """Replace a tar archive by one file in it; anything but an archive stays as it is.

    Raises ``tarfile.TarError``, ``OSError`` or ``KeyError`` for a damaged or foreign archive.
    """
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return
    taken = path.with_name(path.name + ".member")
    with tarfile.open(path) as archive:
        found = archive.getmember(member)
        content = archive.extractfile(found)
        if content is None or found.size > LARGEST_MEMBER:
            raise tarfile.TarError(f"{member} in the archive is not a file of a sane size")
        with content, taken.open("wb") as file:
            shutil.copyfileobj(content, file)
    taken.replace(path)
