"""Bring files into the cache, announcing names and sizes first: for ``fetch`` and for runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from dentbench.errors import FetchError
from dentbench.zoo.cards.dataset_cards import DATASETS, DatasetCard
from dentbench.zoo.cards.model_cards import MODELS, ModelCard
from dentbench.zoo.download.cache import is_offline
from dentbench.zoo.download.cached_files import cached_paths, is_cached, size_of
from dentbench.zoo.download.sources import (
    FetchOptions,
    amount,
    expected_bytes,
    fetch_dataset_file,
    links,
)

if TYPE_CHECKING:
    from dentbench.study.study import Study
    from dentbench.zoo.download.transfer import Progress

Card = ModelCard | DatasetCard


def bring(card: Card, request: FetchOptions, say: Callable[[str], None]) -> None:
    """Fetch a card's files, announcing names, sizes and license first.

    Raises :class:`~dentbench.errors.FetchError`.
    """
    if not cached_paths(card) and card.source != "folder":
        say(f"{card.id}: comes with the installation; license: {card.license}")
        return
    comes = request.by_hand is not None or not is_offline(request.offline)
    if comes and not is_cached(card, request.folder):
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


def blocked(failed: Sequence[tuple[Card, FetchError]]) -> str:
    """Explain which files are missing and why, their address, how to import a copy, and what works.

    Each in a line; of several files each has a line with its link and its command.
    """
    reasons = [str(error).partition("; dentbench fetch --")[0] for _, error in failed]
    if len(failed) == 1:
        ((card, _),) = failed
        lines = [reasons[0], f"  Link: {' '.join(links(card)) or 'none is known'}"]
        lines.append(f"  Import a copy: {_import_command(card)} (or add a source: --mirror URL)")
    else:
        names = ", ".join(card.id for card, _ in failed)
        lines = [f"{len(failed)} are missing and could not be fetched: {names}; {reasons[0]}"]
        lines += [
            f"  {card.id}: {' '.join(links(card)) or 'no link is known'}, then "
            f"{_import_command(card)}"
            for card, _ in failed
        ]
    return "\n".join([*lines, f"  Works without: {_installed()}"])


def _import_command(card: Card) -> str:
    kind = "dataset" if isinstance(card, DatasetCard) else "model"
    return f"dentbench fetch --{kind} {card.id} --from FILE"


def _installed() -> str:
    """Name the models and data that need no download: embedded data sets, each with its models."""
    parts = []
    for data in DATASETS.values():
        models = [card.id for card in MODELS.values() if card.dataset == data.id]
        own = [name for name in models if MODELS[name].source == "embedded"]
        if data.source == "embedded" and own:
            parts.append(f"--model {' or '.join(own)} on {data.id}")
    return "; ".join([*parts, "models and data of your own"])


def bring_lacking(studies: Sequence[Study], request: FetchOptions) -> None:
    """Fetch all that studies need and the cache lacks, before the first of them is begun.

    Names and sizes are announced on standard error first. Raises
    :class:`~dentbench.errors.FetchError`, offline too.
    """
    lacking = [card for card in _needed(studies) if not is_cached(card, request.folder)]
    offline = is_offline(request.offline)
    if len(lacking) > 1 and not offline:
        total = sum(map(expected_bytes, lacking)) / 1e6
        names = ", ".join(card.id for card in lacking)
        typer.echo(f"To be fetched: {names}; about {total:.0f} MB in all", err=True)
    failed: list[tuple[Card, FetchError]] = []
    for card in lacking:
        try:
            bring(card, request, lambda text: None if offline else typer.echo(text, err=True))
        except FetchError as error:
            failed.append((card, error))
    if failed:
        raise FetchError(blocked(failed))


def _needed(studies: Sequence[Study]) -> list[Card]:
    from dentbench.study.study import data_default

    cards: dict[str, Card] = {}
    for study in studies:
        if study.card is not None:
            cards[study.card.id] = study.card
        name = data_default(study)
        if name in DATASETS and study.data.folder is None:
            cards[name] = DATASETS[name]
    return list(cards.values())


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
