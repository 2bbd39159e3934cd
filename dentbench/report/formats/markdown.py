"""A table as GitHub-flavored Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dentbench.report.formats.escape import markdown
from dentbench.report.table import Cell, Column, Table


def to_markdown(table: Table) -> str:
    """Return a GitHub-flavored Markdown table with title, caption and notes."""
    rows = []
    for stub, group in table.groups():
        names = [_cell(table, cell) for cell in stub]
        for row in group:
            rows.append([*names, *(_cell(table, cell) for cell in row)])
            names = [""] * len(names)
    grid = _pipe_table(table.columns, rows)
    notes = [f"- [{mark}] {markdown(note)}" for note, mark in table.footnotes.items()]
    notes += [f"- {markdown(note)}" for note in table.notes]
    blocks = [f"**{markdown(table.title)}**", markdown(table.caption), grid, "\n".join(notes)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _pipe_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Return the grid, laid out by tabulate for each column's widest cell.

    Of thousands of rows it would look at every cell in turn for its type.
    """
    from tabulate import tabulate  # only this format needs it

    head = [markdown(column.full_title) for column in columns]
    widest = [[max(cells, key=len) for cells in zip(*rows, strict=True)]] if rows else []
    # Numbers stay the texts that they are: tabulate must not parse and reformat them.
    aligns = [column.align for column in columns]
    text = tabulate(widest, head, tablefmt="pipe", colalign=aligns, disable_numparse=True)
    titles, ruler = text.splitlines()[:2]
    widths = [len(dashes) - 2 for dashes in ruler.split("|")[1:-1]]
    layout = [f"{_SIDES[align]}{width}" for align, width in zip(aligns, widths, strict=True)]
    lines = (f"| {' | '.join(map(format, row, layout))} |" for row in rows)
    return "\n".join([titles, ruler, *lines])


_SIDES: Final = {"left": "<", "right": ">", "center": "^"}
"""How columns are aligned, in the words of ``format``."""


def _cell(table: Table, cell: Cell) -> str:
    return markdown(cell.text) + table.marks(cell, " [{}]")
