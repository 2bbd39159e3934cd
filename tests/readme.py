"""The tables of README.md and results/README.md that follow from the code.

``python -m tests.renew readme`` writes them between their markers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.protocol_cards import ProtocolCard
from dentbench.defenses.catalogue import DEFENSES, NONE
from dentbench.records.outcome import Record

ROOT: Final = Path(__file__).parents[1]

MAIN_COLUMNS: Final = (
    *("key", "n", "natural_correct", "robust_correct", "worst_protocol"),
    *("static_correct", "gained", "lost", "checks"),
)
"""The columns of results.csv that README.md lists; results/README.md lists all."""

_OFFERS: Final = {"with_steps": "steps", "after": "state carried between batches"}
"""The needs of protocols whose name in the catalogue is not that of a method."""


def protocol_table() -> str:
    """Return every protocol: what it does, what it needs, its settings and its source."""
    heads = ("protocol", "method", "needs", "settings", "source")
    rows = ((f"`{name}`", *_cells(card)) for name, card in PROTOCOLS.items())
    return _table(heads, rows)


def defense_table() -> str:
    """Return every built-in defense: what it does, the protocol of its paper, and its source."""
    heads = ("defense", "what it does", "settings", "published protocol", "source")
    rows = (
        (
            f"`{name}`",
            card.summary,
            ", ".join(f"`{setting}`" for setting in card.settings),
            f"`{card.published_protocol}`",
            _linked(card.source),
        )
        for name, card in DEFENSES.items()
        if name != NONE
    )
    return _table(heads, rows)


def main_columns() -> str:
    """Return the columns of results.csv that matter first."""
    return _columns(MAIN_COLUMNS)


def all_columns() -> str:
    """Return every column of results.csv, in order."""
    return _columns(field.name for field in fields(Record))


TABLES: Final[Mapping[str, Mapping[str, Callable[[], str]]]] = {
    "README.md": {"protocols": protocol_table, "columns": main_columns},
    "results/README.md": {"defenses": defense_table, "columns": all_columns},
}
"""The generated tables of each file, by the name in their markers."""


def renewed(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a text with its generated tables as they are now.

    Raises :class:`ValueError` for a table whose markers are not there exactly once.
    """
    for name, table in tables.items():
        begin, end = f"<!-- {name}: python -m tests.renew readme -->\n", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"the table {name} has not one place between {begin} and {end}")
        before, after = text.split(begin)
        text = f"{before}{begin}{table()}\n{end}{after.split(end)[1]}"
    return text


def renew() -> None:
    """Write the generated tables of every file anew."""
    for name, tables in TABLES.items():
        path = ROOT / name
        path.write_text(renewed(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


def _cells(card: ProtocolCard) -> tuple[str, str, str, str]:
    needs = [_OFFERS.get(need, f"`{need}`") for need in card.needs]
    needs += ["batch mates or chance"] if card.coupled_only else []
    settings = ", ".join(f"`{setting}`" for setting in card.settings)
    return card.summary, ", ".join(needs), settings, _linked(card.source)


def _linked(source: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)


def _columns(names: Iterable[str]) -> str:
    documented = {field.name: field.metadata["doc"] for field in fields(Record)}
    return _table(("column", "meaning"), ((f"`{name}`", documented[name]) for name in names))


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    padded = ([f" {cell} " if cell else " " for cell in line] for line in lines)
    return "\n".join(f"|{'|'.join(line)}|" for line in padded)
