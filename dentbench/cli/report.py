"""``dentbench report``: the records as tables, charts or one page, in a terminal or as files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dentbench.cli.options import output, reports
from dentbench.cli.options.reports import SUFFIXES, Format, TableName
from dentbench.compute.garbage import no_collection
from dentbench.errors import SpecError, StoreError

if TYPE_CHECKING:
    from dentbench.records.outcome import Record
    from dentbench.report.table import Table

STANDARD_OUTPUT = Path("-")
"""The value of ``--out`` for standard output, as if it were left out."""

TERMINAL_ROWS = 200
"""Rows that a terminal shows at most; the newest are kept."""


@dataclass(frozen=True)
class Selection:
    """The records of a report: of a folder, of models, of column values, all or the latest."""

    results: Path
    models: Sequence[str] = ()
    conditions: Sequence[str] = ()
    latest: bool = True


def report(
    table: reports.TableOption = None,
    not_run: reports.NotRun = False,
    format: reports.FormatOption = None,
    results: output.Results = Path("results"),
    out: reports.Out = None,
    figures: reports.Figures = None,
    samples: reports.Samples = None,
    standalone: reports.Standalone = False,
    fragment: reports.Fragment = False,
    cite: reports.Cite = False,
    bibtex: reports.Bibtex = False,
    model: reports.ModelNames = None,
    where: reports.Where = None,
    latest: reports.Latest = True,
    compare: reports.Compare = None,
) -> None:
    """Lay out the results: static beside dent beside published, with intervals and verdicts.

    Examples:

    dentbench report

    dentbench report --format html --out report.html

    dentbench report --table 1 --format latex --standalone --out table1.tex

    dentbench report --figures figures

    dentbench report --where mode=batch --where eps=8/255 --format csv

    dentbench report --samples samples.parquet

    dentbench report --compare old/results.csv new/results.csv
    """
    out = None if out == STANDARD_OUTPUT else out
    chosen = format or (Format.MARKDOWN if bibtex else _default_format(out))
    _check(chosen, standalone=standalone, fragment=fragment, cite=cite)
    if bibtex:
        from dentbench.report.formats.latex import bibliography

        return _deliver(bibliography(), out)
    choice = Selection(results, model or (), where or (), latest)
    if samples is not None:
        others = {"--format": format, "--out": out, "--figures": figures, "--compare": compare}
        if given := [name for name, value in others.items() if value is not None]:
            raise SpecError(f"--samples writes a file of its own; leave out {', '.join(given)}")
        return _samples(choice, samples.expanduser())
    with no_collection():  # many objects and no cycles: it would take a quarter of the time
        if compare is not None:
            made, page = [_compared(*compare, choice)], False
        else:
            records = _read(choice)
            if figures is not None:
                return _figures(choice, records, figures)
            page = chosen is Format.HTML and not fragment
            made = _tables(choice, records, _named(table, chosen), not_run=not_run)
        if page:
            text = _page(choice, records, made)
        elif chosen is Format.TERMINAL:
            return _to_terminal(made, out)
        else:
            from dentbench.report.formats.render import render_all

            text = render_all(made, chosen.value, standalone=standalone, cite=cite)
    return _deliver(text, out)


def _check(chosen: Format, *, standalone: bool, fragment: bool, cite: bool) -> None:
    if standalone and chosen not in (Format.LATEX, Format.HTML):
        raise SpecError(f"standalone needs format latex or html, not {chosen}")
    if fragment and (chosen is not Format.HTML or standalone):
        raise SpecError(
            f"--fragment is of format html, not {'--standalone' if standalone else chosen}"
        )
    if cite and chosen is not Format.LATEX:
        raise SpecError(f"--cite is of format latex, not {chosen}")


def _read(choice: Selection) -> list[Record]:
    from dentbench.records.results_csv import RESULTS_FILE, read
    from dentbench.records.union import united
    from dentbench.report.filters import distinguished

    records = read(choice.results)
    if not records:
        text = f"there are no results in {choice.results} yet; run dentbench evaluate first"
        others = sorted(path.parent for path in choice.results.glob(f"*/{RESULTS_FILE}"))
        more = f", or name another folder: --results {others[0]}" if others else ""
        raise StoreError(text + more)
    return distinguished(united(records) if choice.latest else records)


def _chosen(choice: Selection, records: Sequence[Record], *, statics: bool) -> list[Record]:
    """Return the records chosen; ``statics``: with those that they were compared with."""
    from dentbench.report import filters

    chosen = list(records)
    if choice.conditions:
        from dentbench.report.conditions import where  # pandas, where it is needed

        chosen = where(records, choice.conditions)
    if choice.models:
        models = filters.models_named(choice.models, records)
        chosen = [record for record in chosen if record.model in models]
    return filters.with_statics(chosen, records) if statics and choice.conditions else chosen


def _named(table: TableName | None, chosen: Format) -> TableName | None:
    """Return the table asked for; by default, programs get a row for every record."""
    return TableName.ALL if table is None and chosen in (Format.CSV, Format.JSON) else table


def _tables(
    choice: Selection, records: Sequence[Record], name: TableName | None, *, not_run: bool
) -> list[Table]:
    """Return the tables of that name, the paper's and the rest for None.

    Raises StoreError where no record is left for them.
    """
    from dentbench.report import filters
    from dentbench.report.tables import layout
    from dentbench.report.tables import records as tables

    makers: dict[TableName | None, Any] = {
        None: functools.partial(layout.laid_out, not_run=not_run),
        TableName.ONE: functools.partial(layout.table1s, not_run=not_run),
        TableName.TWO: functools.partial(layout.table2s, not_run=not_run),
        TableName.README: functools.partial(tables.readme, not_run=not_run),
        TableName.PROTOCOLS: tables.protocols,
        TableName.MATES: tables.batch_mates,
        TableName.NATURAL: tables.natural,
        TableName.ALL: tables.all_records,
    }
    models = filters.models_named(choice.models, records) if choice.models else None
    every = Selection(choice.results, (), choice.conditions, choice.latest)
    made = makers[name](_chosen(every, records, statics=name is not TableName.ALL), models)
    filled = [table for table in (made if isinstance(made, list) else [made]) if table.rows]
    if not filled:
        lacking = {TableName.PROTOCOLS: " of a defense", TableName.NATURAL: " without an attack"}
        of = (
            f" of {', '.join(choice.models)}"
            if choice.models
            else lacking.get(name or TableName.ALL, "")
        )
        paper = (TableName.ONE, TableName.TWO, TableName.README)
        more = "; --not-run shows the published rows" if name in paper else ""
        raise StoreError(f"there are no results{of} for table {name or TableName.ALL}{more}")
    return filled


def _page(choice: Selection, records: Sequence[Record], tables: Sequence[Table]) -> str:
    from dentbench.report.formats.page import to_page

    return to_page(_chosen(choice, records, statics=True), tables, choice.results)


def _figures(choice: Selection, records: Sequence[Record], folder: Path) -> None:
    from dentbench.report.formats.figures import draw

    *charts, captions = draw(_chosen(choice, records, statics=True), choice.results, folder)
    typer.echo(f"wrote {len(charts):,} files of charts, and {captions} about them", err=True)


def _samples(choice: Selection, path: Path) -> None:
    from dentbench.records.samples import require_ending, samples, write_samples

    require_ending(path)
    records = _chosen(choice, _read(choice), statics=False)
    write_samples(samples(records, choice.results), path)
    typer.echo(f"wrote {path}", err=True)


def _compared(before: Path, after: Path, choice: Selection) -> Table:
    from dentbench.records.results_csv import RESULTS_FILE, read_file
    from dentbench.records.union import united
    from dentbench.report.tables.compare import compare

    sides = []
    for path in (before, after):
        file = path / RESULTS_FILE if path.is_dir() else path
        if not file.exists():
            raise StoreError(f"there is no results file {file}")
        sides.append(_chosen(choice, united(read_file(file)), statics=False))
    return compare(sides[0], sides[1], names=(before, after))


def _default_format(out: Path | None) -> Format:
    from dentbench.records.safe_files import is_stream

    if out is not None and not is_stream(out):
        suffix = out.suffix.lower()
        if suffix and suffix not in SUFFIXES:
            raise SpecError(
                f"--out {out} ends in {suffix!r}, which names no format; end it in "
                f"{', '.join(SUFFIXES)}, or name the format with --format"
            )
        return SUFFIXES.get(suffix, Format.MARKDOWN)
    return Format.TERMINAL if sys.stdout.isatty() else Format.MARKDOWN


def _deliver(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    from dentbench.records.safe_files import write_atomic

    write_atomic(out, text)
    typer.echo(f"wrote {out}", err=True)


def _to_terminal(tables: Sequence[Table], out: Path | None) -> None:
    from io import StringIO

    from rich.console import Console

    from dentbench.report.formats.terminal import WIDTH, print_table

    text = StringIO()
    plain = Console(file=text, width=WIDTH, no_color=True)
    console, limit = (Console(), TERMINAL_ROWS) if out is None else (plain, None)
    for number, table in enumerate(tables):
        if number:
            console.print()
        print_table(table, console, limit=limit)
    if out is not None:
        _deliver(text.getvalue(), out)
