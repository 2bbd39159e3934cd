"""``dentbench fetch``: bring models and data sets into the cache, list, verify or remove them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from dentbench.cli import json_output
from dentbench.cli.options import fetching, output, runs

if TYPE_CHECKING:
    from dentbench.zoo.download.sources import FetchOptions


LINKED: Final = 12
"""How many cards are listed with their links at most."""


def fetch(
    config: runs.Config = None,
    names: fetching.Names = None,
    model: fetching.ModelNames = None,
    dataset: fetching.DatasetNames = None,
    paper: fetching.Paper = False,
    show: fetching.ListCards = False,
    batchnorm: fetching.BatchNorm = None,
    as_json: output.AsJson = False,
    verify: fetching.Verify = False,
    remove: fetching.Remove = False,
    by_hand: fetching.ByHand = None,
    mirror: fetching.Mirrors = None,
    offline: fetching.Offline = False,
    cache: fetching.Cache = None,
) -> None:
    """Bring models and data sets, named as NAMEs, into the cache, whole and verified.

    Also list, verify and remove them, and import files brought by hand.

    Examples:

    dentbench fetch --list

    dentbench fetch Carmon2019 cifar10

    dentbench fetch Carmon2019 --from cifar10_carmon.pt
    """
    del config
    from dentbench.zoo.download.sources import FetchOptions

    if show:
        chosen = _listed(names or [], model or [], dataset or [], paper, batchnorm)
    else:
        _require_list(batchnorm)
        chosen = _chosen(names or [], model or [], dataset or [], paper)
    request = FetchOptions(
        cache=cache, offline=offline, mirrors=tuple(mirror or ()), by_hand=by_hand
    )
    if show:
        _list(chosen, request.folder, as_json)
    elif verify:
        _verify(chosen or _everything(), request.folder, as_json)
    elif remove:
        _remove(_required(chosen), request.folder, as_json)
    else:
        _fetch(_required(chosen), request, as_json)


def _everything() -> list[Any]:
    from dentbench.zoo.cards.dataset_cards import DATASETS
    from dentbench.zoo.cards.model_cards import MODELS

    return [*DATASETS.values(), *MODELS.values()]


def _chosen(
    names: Sequence[str], models: Sequence[str], datasets: Sequence[str], paper: bool
) -> list[Any]:
    """The cards that were named, each once; a bare name may be a model's or a data set's."""
    from dentbench.zoo.cards.dataset_cards import DATASETS
    from dentbench.zoo.cards.model_cards import MODELS, PAPER_DATASETS, PAPER_MODELS

    cards: list[Any] = [DATASETS[name] for name in datasets]
    cards += [DATASETS[name] if name in DATASETS else MODELS[name] for name in names]
    cards += [MODELS[name] for name in models]
    if paper:
        cards += [DATASETS[name] for name in PAPER_DATASETS]
        cards += [MODELS[name] for name in PAPER_MODELS]
    return list({card.id: card for card in cards}.values())


def _listed(
    names: Sequence[str],
    models: Sequence[str],
    datasets: Sequence[str],
    paper: bool,
    batchnorm: bool | None,
) -> list[Any]:
    """Return the cards to list: those named, or all that have every word, of the data sets named.

    Raises :class:`~dentbench.errors.SpecError` where nothing is left.
    """
    from dentbench.errors import SpecError
    from dentbench.zoo.card_tables import matches
    from dentbench.zoo.cards.dataset_cards import DATASETS
    from dentbench.zoo.cards.model_cards import MODELS

    words = [name for name in names if name not in DATASETS and name not in MODELS]
    exact = [name for name in names if name not in words]
    if words:  # then a data set's name is that of its models too, and a model's name a word
        datasets = [*datasets, *(name for name in exact if name in DATASETS)]
        words += [name for name in exact if name not in DATASETS]
        exact = []
    elif not models and not paper and all(name in DATASETS for name in exact):
        datasets, exact = [*datasets, *exact], []
    cards = _chosen(exact, models, [], paper) or _everything()
    if datasets:
        ids = {DATASETS[name].id for name in datasets}
        cards = [card for card in cards if card.id in ids or getattr(card, "dataset", "") in ids]
    if batchnorm is not None:
        cards = [card for card in cards if getattr(card, "batchnorm", None) is batchnorm]
    cards = [card for card in cards if all(matches(card, word) for word in words)]
    if not cards:
        wanted = " and ".join([*map(repr, words), *([] if batchnorm is None else ["such layers"])])
        raise SpecError(
            f"nothing in the list has {wanted or 'these'}; dentbench fetch --list lists everything"
        )
    return cards


def _require_list(batchnorm: bool | None) -> None:
    from dentbench.errors import SpecError

    if batchnorm is not None:
        raise SpecError("--batchnorm restricts what --list lists; add --list, or leave it out")


def _required(cards: list[Any]) -> list[Any]:
    from dentbench.errors import SpecError

    if not cards:
        raise SpecError("nothing is named; give --model NAME, --dataset NAME or --paper, or --list")
    return cards


def _list(cards: Sequence[Any], folder: Path, as_json: bool) -> None:
    from dentbench.zoo.card_tables import facts, tables
    from dentbench.zoo.download.sources import links

    if as_json:
        json_output.print_document([facts(card, folder) for card in cards])
        return
    from rich.console import Console

    console = Console()
    # A file or a pipe has room for everything, unless somebody says how much.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=max(console.width, 200))
    for table in tables(cards, folder, console.width):
        console.print(table)
    for card in cards if len(cards) <= LINKED else ():
        for link in links(card):
            typer.echo(f"{card.id}: {link}")
    if len(cards) > LINKED:
        typer.echo("Links, of a few at a time: dentbench fetch --list WORD")


def _verify(cards: Sequence[Any], folder: Path, as_json: bool) -> None:
    """Check every cached file; raise where one is wrong, after all are checked."""
    from dentbench.errors import FetchError
    from dentbench.zoo.download.cached_files import cached_paths, is_cached, problems

    present = [card for card in cards if cached_paths(card) and is_cached(card, folder)]
    wrong = {card.id: problems(card, folder) for card in present}
    if as_json:
        json_output.print_document({card.id: wrong[card.id] or "right" for card in present})
    else:
        for card in present:
            typer.echo(f"{card.id}: {'; '.join(wrong[card.id]) or 'right'}")
        if not present:
            typer.echo(f"Nothing of this is cached in {folder}.")
    bad = [name for name, reasons in wrong.items() if reasons]
    if bad:
        raise FetchError(
            f"{len(bad)} of {len(present)} in the cache are wrong ({', '.join(bad)}); "
            "fetching them again sets the wrong files aside"
        )


def _remove(cards: Sequence[Any], folder: Path, as_json: bool) -> None:
    from dentbench.zoo.download.cached_files import remove

    counts = {card.id: remove(card, folder) for card in cards}
    if as_json:
        json_output.print_document({"removed": counts})
        return
    for name, count in counts.items():
        typer.echo(f"{name}: {count or 'no'} file{'s' if count != 1 else ''} removed")


def _fetch(cards: Sequence[Any], request: FetchOptions, as_json: bool) -> None:
    """Fetch every card's files; where some fail, go on and raise in the end."""
    from dentbench.cli.downloads import blocked, bring
    from dentbench.errors import FetchError, SpecError
    from dentbench.zoo.card_tables import facts

    if request.by_hand is not None and len(cards) > 1:
        raise SpecError("--from imports one file; name one model or data set")
    failed: dict[str, FetchError] = {}
    for card in cards:
        try:
            bring(card, request, lambda text: None if as_json else typer.echo(text))
        except FetchError as error:
            by_hand = request.by_hand is not None or card.source == "folder"
            if by_hand and len(cards) == 1:
                raise
            if len(cards) == 1:
                raise FetchError(blocked([(card, error)])) from error
            typer.echo(f"{card.id}: {error if by_hand else blocked([(card, error)])}", err=True)
            failed[card.id] = error
    if as_json:
        errors = {name: {"error": str(error)} for name, error in failed.items()}
        json_output.print_document(
            [facts(card, request.folder) | errors.get(card.id, {}) for card in cards]
        )
    if failed:
        raise FetchError(
            f"{len(failed)} of {len(cards)} could not be fetched ({', '.join(failed)}), each for "
            "the reason above; the same command tries these again"
        )
