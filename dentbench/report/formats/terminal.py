"""A table for a terminal, by rich: at most as wide as asked, whatever the names are."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from dentbench.report.formats.escape import printable
from dentbench.report.table import NOT_RUN, Cell, Column, Table

WIDTH = 80
"""Columns of a terminal that a table fits by default."""

_GAP = 2

_LEAST_REMARK = 30
"""Columns that a remark needs beside its row to be read easily."""


def print_table(table: Table, console: Console | None = None, limit: int | None = None) -> None:
    """Print a table on a console (by default standard output), within the console's width.

    ``limit``: show only the last so many rows and say so.
    """
    console = _with_room(console or Console())
    console.print(to_rich(table, min(console.width, 2 * WIDTH), limit))


def _with_room(console: Console) -> Console:
    """Return a console, wide where it is a pipe or file on standard output: that has no width."""
    has_width = console.is_terminal or "COLUMNS" in os.environ or console.file is not sys.stdout
    return console if has_width else Console(width=2 * WIDTH)


def print_line(text: str, console: Console, style: str = "") -> None:
    """Print a path or a command in one line, to be copied, however narrow the console."""
    console.print(Text(text, style=style), soft_wrap=True)


def print_prose(text: str, console: Console, style: str = "") -> None:
    """Print sentences within the console's width, broken between words, never inside a word."""
    wrapper = textwrap.TextWrapper(
        width=console.width, break_long_words=False, break_on_hyphens=False
    )
    print_line("\n".join(map(wrapper.fill, text.split("\n"))), console, style)


def to_rich(table: Table, width: int = WIDTH, limit: int | None = None) -> RenderableType:
    """Return a table as a rich renderable of at most ``width`` columns.

    Rows are headed by their stub. Where remarks have no room, they stand below the rows. A table
    whose words do not fit side by side is turned: a line per column, rows side by side.
    ``limit``: show only the last so many rows and say so.
    """
    notes = list(table.notes)
    if limit is not None and len(table.rows) > limit:
        hidden = len(table.rows) - limit
        notes.append(f"The last {limit} rows; {hidden:,} older ones are in the other formats.")
        table = replace(table, rows=table.rows[-limit:])
    parts: list[RenderableType] = [Text(printable(table.title), style="bold")]
    if table.caption:
        parts.append(Text(_filled(printable(table.caption), width), style="dim"))
    remarks: list[str] = []
    if _cramped(table, width):
        table, remarks = _without_remarks(table)
    widths = _widths(table, width)
    for number, (stub, rows) in enumerate(table.groups()):
        if stub:
            heading = ", ".join(
                f"{_title(column)} {_shown(cell, table)}".strip()
                for column, cell in zip(table.columns, stub, strict=False)
                if cell.text
            )
            parts.append(Text(f"\n{heading}", style="bold cyan"))
        if widths is None:
            parts.extend(_turned(table, rows, width))
        else:
            parts.append(_grid(table, rows, widths, show_header=number == 0))
    marked = [f"[{mark}] {printable(note)}" for note, mark in table.footnotes.items()]
    for lines in (remarks, [*marked, *map(printable, notes)]):
        parts.extend([Text("")] if lines else [])
        parts.extend(Text(_filled(line, width), style="dim") for line in lines)
    return Group(*parts)


def _filled(sentence: str, width: int) -> str:
    """Return a sentence beside a wide table in lines that are read easily; rich breaks others."""
    if width <= WIDTH:
        return sentence
    return textwrap.fill(sentence, WIDTH, break_long_words=False, break_on_hyphens=False)


def _cramped(table: Table, width: int) -> bool:
    """Return whether a remark would have no room to be read beside its row."""
    if not any(column.remark for column in table.columns):
        return False
    widths = _widths(table, width)
    return widths is None or any(
        room < min(_LEAST_REMARK, max(cell_len(_shown(row[place], table)) for row in table.rows))
        for place, room in enumerate(widths, table.stub)
        if table.columns[place].remark and table.rows
    )


def _without_remarks(table: Table) -> tuple[Table, list[str]]:
    """Return a table without its remarks, and each remark once behind the name of its row."""
    kept = [place for place, column in enumerate(table.columns) if not column.remark]
    rows = [tuple(row[place] for place in kept) for row in table.rows]
    remarks: dict[str, None] = {}
    for row in table.rows:
        texts = [_shown(cell, table) for cell in row]
        said = [text for text, column in zip(texts, table.columns, strict=True) if column.remark]
        if any(said):
            remarks[f"{texts[table.stub]}: {'; '.join(filter(None, said))}"] = None
    columns = tuple(table.columns[place] for place in kept)
    return replace(table, columns=columns, rows=tuple(rows)), list(remarks)


def _shown(cell: Cell, table: Table) -> str:
    marks = ",".join(sorted(table.footnotes[note] for note in cell.notes))
    return printable(cell.text) + (f" [{marks}]" if marks else "")


def _grid(
    table: Table, rows: Sequence[Sequence[Cell]], widths: Sequence[int], show_header: bool
) -> RichTable:
    # One column of padding and one of the box make the gap.
    grid = RichTable(
        box=box.SIMPLE_HEAD,
        show_header=show_header,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),
    )
    for column, width in zip(table.columns[table.stub :], widths, strict=True):
        grid.add_column(Text(_title(column)), justify=column.align, width=width, overflow="fold")
    for row in rows:
        cells = (_shown(cell, table) for cell in row)
        grid.add_row(*(Text(text, style="dim" if text == NOT_RUN else "") for text in cells))
    return grid


def _turned(table: Table, rows: Sequence[Sequence[Cell]], width: int) -> list[RenderableType]:
    """Return grids with a line per column and as many rows side by side as fit."""
    titles = [_title(column) for column in table.columns[table.stub :]]
    label = min(max(map(cell_len, titles)), width // 3)
    room = width - label - _GAP
    texts = [[_shown(cell, table) for cell in row] for row in rows]
    widths = _share_out(texts, room)
    if widths is None:
        widths = [min(max(map(cell_len, row)), room) for row in texts]
    parts: list[RenderableType] = []
    while texts:
        taken = accumulate(widths, lambda total, column_width: total + _GAP + column_width)
        fit = max(1, sum(total <= room for total in taken))
        grid = RichTable.grid(padding=(0, _GAP, 0, 0))
        for column_width in (label, *widths[:fit]):
            grid.add_column(width=column_width, overflow="fold")
        for title, *cells in zip(titles, *texts[:fit], strict=True):
            if any(cells):
                grid.add_row(Text(title, style="dim"), *map(Text, cells))
        parts += [grid, Text("")] if texts[fit:] else [grid]
        texts, widths = texts[fit:], widths[fit:]
    return parts


def _title(column: Column) -> str:
    return printable(column.full_title)


def _widths(table: Table, width: int) -> list[int] | None:
    """Return the width of every column past the stub, or None where words do not fit."""
    places = range(table.stub, len(table.columns))
    titles = [_title(table.columns[place]) for place in places]
    texts = [[_shown(row[place], table) for row in table.rows] for place in places]
    return _share_out(texts, width, titles)


def _share_out(
    columns: Sequence[Sequence[str]], width: int, titles: Sequence[str] = ()
) -> list[int] | None:
    """Return widths, gaps left between, that break no word, or None where there are none.

    Texts are kept in one line before the titles of their columns are.
    """
    headed = zip(titles or [""] * len(columns), columns, strict=True)
    titled = [[title, *texts] for title, texts in headed]
    widths = [
        max(cell_len(word) for text in texts for word in text.split() or [""]) for texts in titled
    ]
    spare = width - _GAP * (len(columns) - 1) - sum(widths)
    if spare < 0:
        return None
    for wholes in (columns, titled):
        longest = [max(map(cell_len, texts), default=0) for texts in wholes]
        wants = [max(0, most - least) for most, least in zip(longest, widths, strict=True)]
        for place in sorted(range(len(columns)), key=wants.__getitem__):
            given = min(spare, wants[place])
            widths[place] += given
            spare -= given
    return widths
