"""Files brought into the cache, with what and how much said first: for ``fetch`` and for runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from dentbench.zoo.cards import DATASETS, DatasetCard, ModelCard
from dentbench.zoo.download.cache import is_offline
from dentbench.zoo.download.sources import (
    FetchOptions,
    amount,
    cached_paths,
    expected_bytes,
    fetch_dataset_file,
    is_cached,
    size_of,
)

if TYPE_CHECKING:
    from dentbench.study.study import Study
    from dentbench.zoo.download.transfer import Progress

Card = ModelCard | DatasetCard


def bring(card: Card, request: FetchOptions, say: Callable[[str], None]) -> None:
    """Fetch one card's files, saying what and how much first and under what license.

    Raises :class:`~dentbench.errors.FetchError`.
    """
    if not cached_paths(card) and card.source != "folder":
        say(f"{card.id}: comes with the installation; license: {card.license}")
        return
    if not is_cached(card, request.folder):
        say(f"{card.id}: fetching {amount(card)} into {request.folder}; license: {card.license}")
    with _progress() as progress:
        request = replace(request, progress=progress)
        if isinstance(card, DatasetCard):
            fetch_dataset_file(card, request)
        else:
            from dentbench.zoo.models import fetch_model

            fetch_model(card, request)
    megabytes = size_of(card, request.folder) / 1e6
    say(f"{card.id}: in the cache and verified, {megabytes:.1f} MB")


def bring_lacking(studies: Sequence[Study], request: FetchOptions) -> None:
    """Fetch all that studies need and the cache lacks, before the first of them is begun.

    What and how much is said on standard error first. Raises
    :class:`~dentbench.errors.FetchError`, offline too.
    """
    lacking = [card for card in _needed(studies) if not is_cached(card, request.folder)]
    offline = is_offline(request.offline)
    if len(lacking) > 1 and not offline:
        total = sum(map(expected_bytes, lacking)) / 1e6
        names = ", ".join(card.id for card in lacking)
        typer.echo(f"To be fetched: {names}; about {total:.0f} MB in all", err=True)
    for card in lacking:
        bring(card, request, lambda text: None if offline else typer.echo(text, err=True))


def _needed(studies: Sequence[Study]) -> list[Card]:
    from dentbench.study.study import data_default

    found: dict[str, Card] = {}
    for study in studies:
        if study.card is not None:
            found[study.card.id] = study.card
        name = data_default(study)
        if name in DATASETS and study.data.folder is None:
            found[name] = DATASETS[name]
    return list(found.values())


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar on standard error, shown once bytes arrive."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, Any] = {}
    console = Console(stderr=True)
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:

        def update(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield update
