"""``dentbench report``: the records as the paper's tables, in a terminal or as text."""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dentbench.errors import SpecError, StoreError

if TYPE_CHECKING:
    from dentbench.outcome import Record
    from dentbench.report.table import Table

TERMINAL_ROWS = 200
"""Rows that a terminal shows at most; the newest are kept."""


class Format(StrEnum):
    """How a table is written."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


class TableName(StrEnum):
    """Which table is made."""

    ONE = "1"
    TWO = "2"
    README = "readme"
    ALL = "all"


SUFFIXES = {
    ".md": Format.MARKDOWN,
    ".tex": Format.LATEX,
    ".csv": Format.CSV,
    ".json": Format.JSON,
    ".html": Format.HTML,
    ".txt": Format.TERMINAL,
}


def report(
    table: Annotated[
        TableName,
        typer.Option(
            help="1 and 2: the paper's; readme: the released README's, both beside the published "
            "numbers; all: one row per record."
        ),
    ] = TableName.ALL,
    format: Annotated[
        Format | None,
        typer.Option(
            help="Default: by --out's suffix, else terminal on a terminal and markdown in a pipe."
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="Results folder.", metavar="DIR")] = Path("results"),
    out: Annotated[
        Path | None, typer.Option(help="Write this file instead of printing.", metavar="FILE")
    ] = None,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="A whole document (latex, html).")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Only this model, by name or its beginning; repeatable.", metavar="NAME"),
    ] = None,
    latest: Annotated[
        bool, typer.Option("--latest/--all-rows", help="Of equal runs only the last, or all rows.")
    ] = True,
) -> None:
    """Lay out the results: static beside dent beside published, with intervals and verdicts.

    Examples: dentbench report; dentbench report --table 1 --format latex --standalone
    --out table1.tex; dentbench report --model Carmon2019 --format csv.
    """
    chosen = format or _default_format(out)
    if standalone and chosen is Format.TERMINAL:
        raise SpecError("standalone needs format latex or html, not terminal")
    with _no_garbage_collection():
        made = _read_table(results, table, model, latest)
        if chosen is Format.TERMINAL:
            _to_terminal(made, out)
            return
        from dentbench.report.render import render

        text = render(made, chosen.value, standalone=standalone)
    _deliver(text, out)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spare a quarter of the time: ten thousand rows are many objects and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_table(
    results: Path, name: TableName, models: Collection[str] | None, latest: bool
) -> Table:
    from dentbench.store import read

    records = read(results)
    if not records:
        raise StoreError(f"there are no results in {results} yet; run dentbench evaluate first")
    return make_table(latest_records(records) if latest else records, name, models)


def latest_records(records: Sequence[Record]) -> list[Record]:
    """Return the last record of each run key, in the order of the file."""
    last = {record.key: place for place, record in enumerate(records)}
    return [record for place, record in enumerate(records) if last[record.key] == place]


def make_table(
    records: Sequence[Record], name: TableName, models: Collection[str] | None = None
) -> Table:
    """Return the table of that name, of the given models only.

    Raises :class:`~dentbench.errors.UnknownNameError` for a model that neither the results nor
    the published numbers have, and StoreError where no record is left.
    """
    from dentbench.report import tables

    makers = {
        TableName.ONE: tables.table1,
        TableName.TWO: tables.table2,
        TableName.README: tables.readme,
        TableName.ALL: tables.all_records,
    }
    wanted = _resolve(models, records) if models else None
    made = makers[name](records, wanted)
    if not made.rows:
        raise StoreError(f"there are no results of {', '.join(models or ())} for table {name}")
    return made


def _resolve(names: Collection[str], records: Sequence[Record]) -> set[str]:
    """Return the models that names or their beginnings stand for."""
    from dentbench.registry import Registry
    from dentbench.report.published import README, TABLE1

    known: Registry[str] = Registry("model")
    published = (row.model for table in (TABLE1, README) for row in table.rows)
    for model in dict.fromkeys([*(record.model for record in records), *published]):
        if model not in known:
            known.add(model, model)
    wanted: set[str] = set()
    for name in names:
        begun = [model for model in known if model.lower().startswith(name.lower())]
        wanted.update([known[name]] if name in known or not begun else begun)
    return wanted


def _default_format(out: Path | None) -> Format:
    if out is not None:
        return SUFFIXES.get(out.suffix.lower(), Format.MARKDOWN)
    return Format.TERMINAL if sys.stdout.isatty() else Format.MARKDOWN


def _deliver(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    from dentbench.store import write_atomic

    write_atomic(out, text)
    typer.echo(f"wrote {out}", err=True)


def _to_terminal(table: Table, out: Path | None) -> None:
    from io import StringIO

    from rich.console import Console

    from dentbench.report.terminal import WIDTH, print_table

    if out is None:
        print_table(table, limit=TERMINAL_ROWS)
        return
    text = StringIO()
    print_table(table, Console(file=text, width=WIDTH, no_color=True))
    _deliver(text.getvalue(), out)
