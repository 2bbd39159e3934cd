"""A table as LaTeX with booktabs; as text in a paper or as a document that compiles.

The ``tabular`` is pandas'. It stands in a float, of a long table in several: a ``longtable`` can
neither be scaled to the width of a page nor stand in a paper of two columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dentbench.report.formats.escape import latex
from dentbench.report.formats.latex_text import NAME, Sources, cell_text, heading_word
from dentbench.report.table import Cell, Column, Table, spans

LONG: Final = 38
"""A table of more lines than this, notes and rules counted, is set in parts."""

WIDE: Final = 185
"""A table of more characters side by side than this has its stub in lines of its own."""

_PROSE: Final = 56
"""A text on the left, beside the stub, of more characters than this is broken into lines."""

_OURS: Final = frozenset({"attack", "source"})
"""The columns whose texts are ours, so that sources named there may be cited."""

_ROW_END: Final = " \\\\\n"

_DOCUMENT: Final = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{array,booktabs}
\usepackage{amssymb,graphicx}
\usepackage[a4paper,landscape,hmargin=15mm,vmargin=12mm]{geometry}
%s\begin{document}
%s%s\end{document}
"""

_BIBLIOGRAPHY: Final = r"""\bibliographystyle{plain}
\bibliography{dentbench-references}
"""


def bibliography() -> str:
    """Return the BibTeX entries of everything that is cited."""
    return Path(__file__).with_name("references.bib").read_text(encoding="utf-8")


def to_latex(*tables: Table, standalone: bool = False, cite: bool = False) -> str:
    """Return the ``table`` environments of tables, or a document of them.

    ``cite``: the sources that they name are cited; a document then writes its own bibliography
    file, for bibtex. Needs array, booktabs, amssymb and graphicx; T1 fonts and textcomp for
    straight quotes. Long texts are broken into lines; of a very wide table the stub stands above
    its rows; a table still wider than the page is scaled down to it, and a table of more than
    ``LONG`` lines becomes several, a page each, under one number.
    """
    sources, body = Sources(cite), ""
    for table in tables:
        layout = _Layout.of(table)
        parts = _parts(table, layout)
        floats = [_float(table, layout, part, number, sources) for number, part in enumerate(parts)]
        body += "".join(f"{text}\\clearpage\n" if len(parts) > 1 else text for text in floats)
    needs = (
        r"% needs \usepackage[T1]{fontenc} \usepackage{textcomp,array,booktabs,amssymb,graphicx}"
    )
    if not standalone:
        return f"{needs}\n{body}"
    if r"\cite{" not in body:
        return _DOCUMENT % ("", body, "")
    file = f"\\begin{{filecontents*}}[overwrite]{{dentbench-references.bib}}\n{bibliography()}"
    return _DOCUMENT % (f"{file}\\end{{filecontents*}}\n", body, _BIBLIOGRAPHY)


@dataclass(frozen=True)
class _Layout:
    """The layout of a table, of all its rows.

    ``widths``: the characters of a line in each column, where longer texts are broken into lines.
    ``above``: how many columns, the stub of a very wide table, stand above their rows.
    ``preamble``: how the others are aligned.
    """

    widths: tuple[int, ...]
    above: int
    preamble: str

    @classmethod
    def of(cls, table: Table) -> _Layout:
        widths, kinds, total = [], [], 0
        for place, column in enumerate(table.columns):
            longest = max((len(row[place].text) for row in table.rows), default=0)
            most = NAME if place < table.stub else _PROSE
            broken = column.align == "left" and longest > most
            widths.append(most if broken else max(longest, 1))
            kinds.append(_PARAGRAPH % (most // 2) if broken else column.align[0])
            total += max(widths[-1], len(column.title)) + 2
        wide = total > WIDE and table.stub < len(table.columns)
        above = table.stub if wide else 0
        return cls(tuple(widths), above, "".join(kinds[above:]))


_PARAGRAPH: Final = r">{\raggedright\arraybackslash}p{%dem}"


def _parts(table: Table, layout: _Layout) -> list[Table]:
    """Return a table as parts of at most ``LONG`` lines, the notes under the first.

    Rows of the same stub stay together where they fit on a page.
    """
    parts: list[list[tuple[Cell, ...]]] = [[]]
    notes = (*table.footnotes, *table.notes)
    left = LONG - 0.8 * sum(1 + len(note) // 180 for note in notes)
    for _, group in groupby(table.rows, key=lambda row: row[: table.stub]):
        rows = list(group)
        heights = [_height(row, layout) for row in rows]
        heights[0] += 1.4 if layout.above else 0.4
        together = sum(heights) if sum(heights) <= LONG else 0
        for row, height in zip(rows, heights, strict=True):
            if max(height, together) > left and parts[-1]:
                parts.append([])
                left = LONG
            together = 0
            parts[-1].append(row)
            left -= height
    return [replace(table, rows=tuple(rows)) for rows in parts]


def _height(row: Sequence[Cell], layout: _Layout) -> float:
    """Return how many lines a row takes."""
    cells = list(zip(row, layout.widths, strict=True))[layout.above :]
    return max(1.0, *(-(-len(cell.text) // width) for cell, width in cells))


def _float(table: Table, layout: _Layout, part: Table, number: int, sources: Sources) -> str:
    """Return the environment of a part; marks and notes are the whole table's."""
    lines = [
        r"\begin{table}[tp]",
        r"\centering",
        r"\addtocounter{table}{-1}" if number else "",
        rf"\caption{{{_caption(table, sources)}{' (continued)' if number else ''}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        _tabular(table, layout, part, sources).rstrip("\n") + "}",
        *([] if number else _notes(table, sources)),
        r"\end{table}",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def _tabular(table: Table, layout: _Layout, part: Table, sources: Sources) -> str:
    """Return the ``tabular`` environment of a part, as pandas writes it."""
    columns = table.columns[layout.above :]
    cited = [sources if column.title in _OURS else None for column in table.columns[table.stub :]]
    rows: list[list[str]] = []
    for stub, group in part.groups():
        names = [] if layout.above else [cell_text(table, cell) for cell in stub]
        # A rule and a line of its own stand before the first cell of a row.
        before = "\\midrule\n" if rows and table.stub else ""
        if layout.above:
            heading = _heading(table, stub)
            before += rf"\multicolumn{{{len(columns)}}}{{l}}{{{heading}}} \\" + "\n"
        for row in group:
            cells = [
                *names,
                *[cell_text(table, *pair) for pair in zip(row, cited, strict=True)],
            ]
            cells[0] = before + cells[0]
            rows.append(cells)
            names, before = [""] * len(names), ""
    frame, end = _frame(columns, layout.preamble)
    return f"{frame}{''.join([' & '.join(cells) + _ROW_END for cells in rows])}{end}"


@lru_cache
def _frame(columns: tuple[Column, ...], preamble: str) -> tuple[str, str]:
    """Return the ``tabular`` of a table without its rows, as pandas writes it: before and after.

    Rows are joined by us: Styler takes 20 microseconds for each cell.
    """
    empty = pd.DataFrame([], columns=_head(columns), dtype="object")
    text: str = empty.style.hide(axis="index").to_latex(
        column_format=preamble, hrules=True, multicol_align="c"
    )
    before, rule, after = text.rpartition("\\bottomrule\n")
    return before, rule + after


def _caption(table: Table, sources: Sources) -> str:
    return " ".join(filter(None, (f"{latex(table.title)}.", sources.cited(table.caption))))


def _head(columns: Sequence[Column]) -> pd.Index[Any]:
    """Return the titles, below their shared headings where there are any."""
    titles = [" ".join(map(heading_word, column.title.split())) for column in columns]
    if not any(column.group for column in columns):
        return pd.Index(titles)
    rules, start = [], 1
    for group, width in spans(columns):
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    titles[0] = " ".join(rules) + "\n" + titles[0]
    return pd.MultiIndex.from_arrays([[latex(column.group) for column in columns], titles])


def _heading(table: Table, stub: Sequence[Cell]) -> str:
    """Return the line above the rows of a stub: each of its cells after its title."""
    return ", ".join(
        rf"{latex(column.title)} \textbf{{{cell_text(table, cell)}}}"
        for column, cell in zip(table.columns, stub, strict=False)
        if cell.text
    )


def _notes(table: Table, sources: Sources) -> list[str]:
    # A footnote may name a user's data or attack; attacks other than AutoAttack are named in our
    # words.
    notes = [
        rf"\textsuperscript{{{mark}}}~"
        + "; ".join(
            sources.cited(part) if part.endswith("(not AutoAttack)") else latex(part)
            for part in note.split("; ")
        )
        for note, mark in table.footnotes.items()
    ]
    notes += map(sources.cited, table.notes)
    return [r"\par\smallskip", *(rf"{{\footnotesize\raggedright {note}\par}}" for note in notes)]
