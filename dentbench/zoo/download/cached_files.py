"""Where the cards' files belong in the cache, and whether they are there and right. Torch-free."""

from __future__ import annotations

import shutil
from pathlib import Path

from dentbench.zoo.cards.dataset_cards import DatasetCard
from dentbench.zoo.cards.model_cards import ModelCard
from dentbench.zoo.download.transfer import discard
from dentbench.zoo.download.verify import Expected, HashFile, problem_with


def model_paths(card: ModelCard) -> tuple[str, ...]:
    """Return the paths in the cache of a model's checkpoint files, in RobustBench's layout."""
    base = f"models/{card.dataset}/{card.threat_model}/{card.source_id}.pt"
    if len(card.weights) == 1:
        return (base,)
    return tuple(f"{base}_m{index}.pt" for index in range(len(card.weights)))


def dataset_paths(card: DatasetCard) -> tuple[str, ...]:
    """Return the paths in the cache that a data set's file may have, the preferred path first.

    Of CIFAR: the test file in torchvision's layout below ``data/``, or the public parquet file. Of
    a corruption set: Zenodo's archive, or its labels where it was unpacked by hand.
    """
    if card.corruptions:
        return f"data/{card.name}.tar", f"data/{card.name}/labels.npy"
    if not card.file:
        return ()
    return f"data/{card.file}", f"data/{card.file.partition('/')[0]}/test.parquet"


def cached_paths(card: ModelCard | DatasetCard) -> tuple[str, ...]:
    """Return the paths in the cache that a card's files may have; none for an embedded model."""
    if isinstance(card, DatasetCard):
        return dataset_paths(card)
    return model_paths(card) if card.source == "robustbench" else ()


def is_cached(card: ModelCard | DatasetCard, folder: Path) -> bool:
    """Return whether a card's files are there; embedded ones always are.

    Of a model that is every file, of a data set any of those that hold it.
    """
    there = [(folder / path).is_file() for path in cached_paths(card)]
    if isinstance(card, DatasetCard) and there:
        return any(there)
    return all(there)


def size_of(card: ModelCard | DatasetCard, folder: Path) -> int:
    """Return how many bytes of the cache folder a card's files take."""
    paths = (folder / path for path in cached_paths(card))
    return sum(path.stat().st_size for path in paths if path.is_file())


def problems(card: ModelCard | DatasetCard, folder: Path) -> list[str]:
    """Return the faults of a card's cached files, by the published or recorded hashes."""
    faults = []
    for relative in cached_paths(card):
        path = folder / relative
        if path.is_file():
            reason = problem_with(path, HashFile(folder).expected(path, _published(card, relative)))
            faults += [f"{path}: {reason}"] if reason is not None else []
    return faults


def _published(card: ModelCard | DatasetCard, relative: str) -> Expected:
    """Return the published hashes of a card's file."""
    name = relative.rpartition("/")[2]
    if not isinstance(card, DatasetCard) or name.endswith(".parquet"):
        return Expected()
    if not card.corruptions:
        return Expected(md5=card.file_md5)
    if name.endswith(".tar"):
        return Expected(md5=card.archive_md5, size=card.archive_size)
    return Expected(md5=card.corruptions[name.removesuffix(".npy")])


def remove(card: ModelCard | DatasetCard, folder: Path) -> int:
    """Remove a card's files from the cache, with their recorded hashes; return how many.

    Unfinished downloads and rejected files go too, uncounted.
    """
    count = 0
    for path in (folder / relative for relative in cached_paths(card)):
        part = path.with_name(path.name + ".part")
        discard(part)
        shutil.rmtree(part.with_suffix(".gdown"), ignore_errors=True)
        for ending in (".rejected", ".rejected.txt"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        if path.is_file():
            HashFile(folder).forget(path)
            path.unlink()
            count += 1
    return count
