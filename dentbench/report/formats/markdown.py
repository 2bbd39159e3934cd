"""A table as GitHub-flavored Markdown."""

from __future__ import annotations

from dentbench.report.formats.escape import markdown
from dentbench.report.formats.text_frame import to_frame
from dentbench.report.table import Cell, Table


def to_markdown(table: Table) -> str:
    """Return a GitHub-flavored Markdown table with title, caption and notes."""

    def text(cell: Cell) -> str:
        return markdown(cell.text) + table.marks(cell, " [{}]")

    titles = [markdown(column.full_title) for column in table.columns]
    # Numbers stay the texts that they are: tabulate must not parse and reformat them.
    grid = to_frame(table, titles, text).to_markdown(
        index=False,
        tablefmt="pipe",
        colalign=[column.align for column in table.columns],
        disable_numparse=True,
    )
    notes = [f"- [{mark}] {markdown(note)}" for note, mark in table.footnotes.items()]
    notes += [f"- {markdown(note)}" for note in table.notes]
    blocks = [f"**{markdown(table.title)}**", markdown(table.caption), grid, "\n".join(notes)]
    return "\n\n".join(block for block in blocks if block) + "\n"
