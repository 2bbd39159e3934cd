"""The cards as JSON values and as rich tables. Torch-free."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from rich import box
from rich.table import Table

from dentbench.zoo.cards.dataset_cards import DatasetCard
from dentbench.zoo.cards.model_cards import ModelCard
from dentbench.zoo.download.cached_files import is_cached, size_of
from dentbench.zoo.download.sources import expected_bytes, links


def facts(card: ModelCard | DatasetCard, folder: Path) -> dict[str, Any]:
    """Return a card as plain JSON values, with its files in the cache folder."""
    kind = "model" if isinstance(card, ModelCard) else "dataset"
    hidden = ("recommended", "details", "corruptions")
    plain = {name: value for name, value in vars(card).items() if name not in hidden}
    if isinstance(card, ModelCard):
        plain |= {"batchnorm": card.batchnorm, "recommended": dict(card.recommended)}
    return {
        "kind": kind,
        **plain,
        "cached": is_cached(card, folder),
        "bytes": size_of(card, folder),
        "links": list(links(card)),
    }


def matches(card: ModelCard | DatasetCard, word: str) -> bool:
    """Return whether a card has a word in its names, network, data set, norm, paper or license."""
    shown = ("id", "aliases", "name", "architecture", "dataset", "norm", "paper", "license")
    text = " ".join(str(getattr(card, name, "")) for name in shown)
    return word.lower() in text.lower()


def tables(cards: Sequence[Any], folder: Path, width: int) -> list[Table]:
    """Return a table of the data sets among the cards, and a table for each model list.

    ``width`` is the terminal's, in characters; a narrow terminal gets fewer columns.
    """
    datasets = [card for card in cards if isinstance(card, DatasetCard)]
    listed = [_dataset_table(datasets, folder, width)] if datasets else []
    lists: dict[tuple[str, str], list[ModelCard]] = {}
    for card in cards:
        if isinstance(card, ModelCard):
            lists.setdefault((card.dataset, card.norm), []).append(card)
    columns = {name: cell for name, (least, cell) in _COLUMNS.items() if width >= least}
    for (dataset, norm), models in lists.items():
        listed.append(_model_table(f"Models for {dataset}, {norm}", models, folder, columns))
    return listed


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


_ROOMY: Final = 110
"""The width of a terminal that has room for all columns of a data set."""
_NARROW: Final = ("name", "is", "threat model", "MB", "cached")


def _dataset_table(cards: Sequence[DatasetCard], folder: Path, width: int) -> Table:
    table = _table("Data sets")
    names = ("name", "is", "shape", "classes", "threat model", "MB", "license", "cached")
    kept = [name for name in names if width >= _ROOMY or name in _NARROW]
    for name in kept:
        right = name == "MB"
        table.add_column(
            name,
            overflow="fold",
            justify="right" if right else "left",
            no_wrap=name in ("name", "MB", "cached"),
        )
    for card in cards:
        shape = "x".join(map(str, card.shape))
        threat = f"{card.norm} {card.eps}"
        size = f"{expected_bytes(card) / 1e6:.0f}" if card.source == "download" else "-"
        have = _where(card, folder)
        cells = (card.id, card.name, shape, str(card.classes), threat, size, card.license, have)
        table.add_row(*(cell for name, cell in zip(names, cells, strict=True) if name in kept))
    return table


def _where(card: DatasetCard, folder: Path) -> str:
    """Say where a data set is: in the cache, in a package, or in a folder of the user's own."""
    if card.source == "download":
        return _have(is_cached(card, folder))
    if card.source in ("embedded", "folder"):
        return {"embedded": "embedded", "folder": "your folder"}[card.source]
    installed = importlib.util.find_spec(card.source) is not None
    return f"{'with' if installed else 'needs'} {card.source}"


def _short(card: ModelCard) -> str:
    return " ".join(alias for alias in card.aliases if "/" not in alias)


def _layers(card: ModelCard) -> str:
    share = 100 * card.batchnorm_parameters / card.parameters
    return f"{card.batchnorm_layers} ({share:.2f}%)" if card.batchnorm else "none"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


# Column -> the width of a terminal that has room for it, and its cell. BN: layers, and the share
# of their scales and shifts among all parameters; clean and AA: published accuracies in percent.
_COLUMNS: Final[dict[str, tuple[int, Callable[[ModelCard], str]]]] = {
    "name": (0, lambda card: card.id),
    "short": (110, _short),
    "network": (140, lambda card: card.architecture),
    "params": (90, lambda card: f"{card.parameters / 1e6:.1f}M"),
    "BN": (0, _layers),
    "clean": (0, lambda card: _percent(card.clean)),
    "AA": (0, lambda card: _percent(card.autoattack)),
    "eps": (120, lambda card: card.eps),
    "MB": (140, lambda card: f"{4 * card.parameters / 1e6:.0f}"),
    "license": (130, lambda card: card.license),
}
_NUMBERS: Final = frozenset({"params", "BN", "clean", "AA", "MB"})


def _model_table(
    title: str,
    cards: Sequence[ModelCard],
    folder: Path,
    columns: Mapping[str, Callable[[ModelCard], str]],
) -> Table:
    table = _table(title)
    roomy = "params" in columns  # else the longest names are broken
    for name in columns:
        right = name in _NUMBERS
        justify: Literal["left", "right"] = "right" if right else "left"
        whole = name == "name" if roomy else right
        table.add_column(name, justify=justify, overflow="fold", no_wrap=whole)
    table.add_column("cached", no_wrap=True)
    for card in cards:
        installed = card.source != "robustbench"
        have = "installed" if installed else _have(is_cached(card, folder))
        table.add_row(*(cell(card) for cell in columns.values()), have)
    return table


def _have(there: bool) -> str:
    return "yes" if there else "no"
