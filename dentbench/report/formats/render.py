"""A table as text: Markdown, LaTeX (booktabs), CSV, JSON and HTML.

Every text that a user named is escaped for the format. Footnote marks are letters; CSV, which has
no place for footnotes, has a last column ``notes`` instead.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from dentbench.errors import SpecError
from dentbench.records.csv_codec import escape
from dentbench.report.formats.escape import markdown, printable
from dentbench.report.formats.latex import spans, to_latex
from dentbench.report.numbers import Number
from dentbench.report.table import Cell, Column, Table


def render(table: Table, name: str, *, standalone: bool = False, cite: bool = False) -> str:
    """Return a table in a format of :data:`FORMATS`, ending in a line end.

    ``standalone``: a whole document instead of a fragment; ``cite``: with citations of the
    sources; both are of LaTeX alone. Raises :class:`~dentbench.errors.SpecError` for an unknown
    format or one that has neither.
    """
    if name not in FORMATS:
        raise SpecError(f"format is {name!r}; allowed: {', '.join(FORMATS)}")
    if name == "latex":
        return to_latex(table, standalone=standalone, cite=cite)
    if standalone or cite:
        raise SpecError(f"standalone and cite are of format latex, not {name}")
    return FORMATS[name](table)


def to_markdown(table: Table) -> str:
    """Return a GitHub-flavored Markdown table with title, caption and notes."""
    rows = []
    for stub, group in table.groups():
        names = [_markdown_cell(table, cell) for cell in stub]
        for row in group:
            rows.append([*names, *(_markdown_cell(table, cell) for cell in row)])
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


def _markdown_cell(table: Table, cell: Cell) -> str:
    return markdown(cell.text) + _marks(table, cell, " [{}]")


def to_csv(table: Table) -> str:
    """Return comma-separated values: percentages as digits, names safe for spreadsheets."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(escape(column.full_title) for column in table.columns), "notes"])
    for row in table.rows:
        parts = (part for cell in row for note in cell.notes for part in note.split("; "))
        notes = dict.fromkeys(parts)
        writer.writerow([*map(_plain, row), escape("; ".join(notes))])
    return text.getvalue()


def _plain(cell: Cell) -> str:
    return cell.value.plain() if isinstance(cell.value, Number) else escape(cell.text)


def to_json(table: Table) -> str:
    """Return a JSON object: title, caption, columns, rows by column title, and notes.

    A number is an object with its parts and its ``text``; a cell with footnotes has ``notes``.
    Each row stands on a line of its own.
    """
    titles = [column.full_title for column in table.columns]
    rows = (dict(zip(titles, map(_json_cell, row), strict=True)) for row in table.rows)
    parts = {
        "title": json.dumps(table.title),
        "caption": json.dumps(table.caption),
        "columns": json.dumps(titles),
        "rows": "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]",
        "notes": json.dumps(list(table.notes)),
    }
    return "{\n" + ",\n".join(f' "{name}": {text}' for name, text in parts.items()) + "\n}\n"


def _json_cell(cell: Cell) -> Any:
    if not isinstance(cell.value, Number) and not cell.notes:
        return cell.value
    parts = cell.value.data() if isinstance(cell.value, Number) else {}
    return {**parts, "text": cell.text, **({"notes": list(cell.notes)} if cell.notes else {})}


def to_html(table: Table) -> str:
    """Return a ``figure`` element with the table and its notes."""
    lines = ['<figure class="dentbench-table">', "<table>"]
    lines.append(f"<caption>{_html(table.title)}. {_html(table.caption)}</caption>")
    lines += ["<thead>", *_html_head(table.columns), "</thead>"]
    columns = table.columns[table.stub :]
    cells = "".join(f'<td style="text-align: {column.align}">%s</td>' for column in columns)
    for stub, rows in table.groups():
        lines.append("<tbody>")
        for number, row in enumerate(rows):
            span = f' rowspan="{len(rows)}"' if len(rows) > 1 else ""
            names = stub if number == 0 else ()
            heads = (f'<th scope="row"{span}>{_html_cell(table, cell)}</th>' for cell in names)
            texts = tuple([_html_cell(table, cell) for cell in row])
            lines.append("".join(["<tr>", *heads, cells % texts, "</tr>"]))
        lines.append("</tbody>")
    lines.append("</table>")
    notes = [f"<sup>{mark}</sup> {_html(note)}" for note, mark in table.footnotes.items()]
    notes += map(_html, table.notes)
    lines.append("<figcaption>")
    lines += [f"<p>{note}</p>" for note in notes]
    lines += ["</figcaption>", "</figure>"]
    return "\n".join(lines) + "\n"


def _html_head(columns: Sequence[Column]) -> list[str]:
    if not any(column.group for column in columns):
        return [_html_titles(columns)]
    cells = []
    for group, width in spans(columns):
        scope = f' scope="colgroup" colspan="{width}"' if group else f' colspan="{width}"'
        tag = "th" if group else "td"
        cells.append(f"<{tag}{scope}>{_html(group)}</{tag}>")
    return ["".join(["<tr>", *cells, "</tr>"]), _html_titles(columns)]


def _html_titles(columns: Sequence[Column]) -> str:
    cells = (
        f'<th scope="col" style="text-align: {column.align}">{_html(column.title)}</th>'
        for column in columns
    )
    return "".join(["<tr>", *cells, "</tr>"])


@lru_cache(maxsize=1 << 14)
def _html(text: str) -> str:
    return html.escape(printable(text))


def _html_cell(table: Table, cell: Cell) -> str:
    text = _html(cell.text)
    return text + _marks(table, cell, "<sup>{}</sup>") if cell.notes else text


def _marks(table: Table, cell: Cell, pattern: str) -> str:
    if not cell.notes:
        return ""
    return pattern.format(",".join(sorted(table.footnotes[note] for note in cell.notes)))


FORMATS: Final[Mapping[str, Callable[[Table], str]]] = MappingProxyType(
    {
        "markdown": to_markdown,
        "latex": to_latex,
        "csv": to_csv,
        "json": to_json,
        "html": to_html,
    }
)
"""Every text format by name; the terminal's is :mod:`dentbench.report.formats.terminal`."""
