"""A table as an HTML ``figure``; a notebook shows it as well.

Not by pandas: ``DataFrame.to_html`` knows no caption, no scope of a heading and no side per column,
and Styler takes several times as long and gives every cell an id.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import lru_cache

from dentbench.report.formats.escape import printable
from dentbench.report.table import Cell, Column, Table, spans


def to_html(table: Table) -> str:
    """Return a ``figure`` element with the table and its notes."""
    lines = ['<figure class="dentbench-table">', "<table>"]
    lines.append(f"<caption><span>{_text(table.title)}. {_text(table.caption)}</span></caption>")
    lines += ["<thead>", *_head(table.columns), "</thead>"]
    columns = table.columns[table.stub :]
    cells = "".join(f'<td style="text-align: {column.align}">%s</td>' for column in columns)
    for stub, rows in table.groups():
        lines.append("<tbody>")
        for number, row in enumerate(rows):
            span = f' rowspan="{len(rows)}"' if len(rows) > 1 else ""
            names = stub if number == 0 else ()
            heads = (f'<th scope="row"{span}>{_cell(table, cell)}</th>' for cell in names)
            texts = tuple([_cell(table, cell) for cell in row])
            lines.append("".join(["<tr>", *heads, cells % texts, "</tr>"]))
        lines.append("</tbody>")
    lines.append("</table>")
    notes = [f"<sup>{mark}</sup> {_text(note)}" for note, mark in table.footnotes.items()]
    notes += map(_text, table.notes)
    lines.append("<figcaption>")
    lines += [f"<p>{note}</p>" for note in notes]
    lines += ["</figcaption>", "</figure>"]
    return "\n".join(lines) + "\n"


def _head(columns: Sequence[Column]) -> list[str]:
    if not any(column.group for column in columns):
        return [_titles(columns)]
    cells = []
    for group, width in spans(columns):
        scope = f' scope="colgroup" colspan="{width}"' if group else f' colspan="{width}"'
        tag = "th" if group else "td"
        cells.append(f"<{tag}{scope}>{_text(group)}</{tag}>")
    return ["".join(["<tr>", *cells, "</tr>"]), _titles(columns)]


def _titles(columns: Sequence[Column]) -> str:
    cells = (
        f'<th scope="col" style="text-align: {column.align}">{_text(column.title)}</th>'
        for column in columns
    )
    return "".join(["<tr>", *cells, "</tr>"])


@lru_cache(maxsize=1 << 14)
def _text(text: str) -> str:
    return html.escape(printable(text))


def _cell(table: Table, cell: Cell) -> str:
    text = _text(cell.text)
    return text + table.marks(cell, "<sup>{}</sup>") if cell.notes else text
