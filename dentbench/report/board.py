"""The board as files: a page of Markdown with its table and commands, the table as CSV, charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dentbench.errors import SpecError, StoreError
from dentbench.records.outcome import WORST, Record
from dentbench.records.results_csv import read
from dentbench.records.safe_files import write_atomic
from dentbench.records.union import united
from dentbench.report import charts, coupling, departures
from dentbench.report.chart import Bar, BarChart
from dentbench.report.formats.render import render
from dentbench.report.numbers import Share
from dentbench.report.pairing import Pair, pair_up
from dentbench.report.tables.board import board, by_model, largest_static

PAGE: Final = "README.md"
TABLE: Final = "board.csv"

_INTRODUCTION: Final = """\
# Board

Built-in defenses on the embedded models, as far as they were run: by the protocol of its own
paper, in the worst case, and DentBench's verdict. One command runs the rest and writes this page:

    {command}

It reads `{study}`: a table `[[model]]` for each model, a table `[[defense]]` for each defense, and
options of `dentbench evaluate` for all. Another defense is a file in `dentbench/defenses/`, its
card in `catalogue.py`, and a table there. With `--render` it writes the page from the
records alone; any option of `dentbench evaluate` may be added, such as `--examples 32`.
"""


def board_pairs(results: Path) -> list[Pair]:
    """Return the defended records of a results folder beside their static records, in order.

    Raises :class:`~dentbench.errors.StoreError` where there is none.
    """
    pairs = pair_up(united(read(results)))
    if not pairs:
        raise StoreError(f"there is no defended record in {results} yet; run dentbench board first")
    return pairs


def page(pairs: Sequence[Pair], study: str, command: str) -> str:
    """Return the page of Markdown; ``study``: how to call the file that ``command`` runs."""
    pictures = [f"![{chart.title}]({file_of(chart)})" for chart in board_charts(pairs)]
    parts = [
        _INTRODUCTION.format(command=command, study=study),
        render(board(pairs), "markdown"),
        *pictures,
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def board_charts(pairs: Sequence[Pair]) -> list[BarChart]:
    """Return a chart for each model: published and worst accuracies, static as the reference."""
    made = []
    for group in by_model(pairs):
        static = largest_static(group)
        bars = [bar for pair in group for bar in _bars(pair.defended)]
        made.append(
            BarChart(
                name=f"board-{static.model}",
                title=f"Board, {static.model}",
                subtitle=charts.subheading(static),
                bars=tuple(bars),
                reference=Share(static.robust_correct, static.n),
            )
        )
    return made


def _bars(record: Record) -> list[Bar]:
    own = departures.published_protocol(record)
    name = departures.defense_title(record)
    bars = []
    if own in record.protocol_counts:
        bars.append(Bar(f"{name}, {own}", coupling.share(record, own), "published"))
    return [*bars, Bar(f"{name}, worst", coupling.share(record, WORST), "worst")]


def file_of(chart: BarChart) -> str:
    """Return the name of a chart's file."""
    return f"{chart.name}.svg"


def write_board(results: Path, study: str, command: str) -> list[Path]:
    """Write the page, the table and, where matplotlib is there, the charts; return the files.

    They go into the results folder; ``study`` and ``command`` as of :func:`page`. Raises
    :class:`~dentbench.errors.StoreError` where there is nothing to show.
    """
    pairs = board_pairs(results)
    written = [results / PAGE, results / TABLE]
    write_atomic(written[0], page(pairs, study, command))
    write_atomic(written[1], render(board(pairs), "csv"))
    from dentbench.report.formats.figures import chart_as_svg

    for chart in board_charts(pairs):
        try:
            text = chart_as_svg(chart)
        except SpecError:  # without matplotlib the page's pictures stay as they were
            break
        write_atomic(results / file_of(chart), text)
        written.append(results / file_of(chart))
    return written
