"""A table as LaTeX with booktabs; as text in a paper or as a document that compiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dentbench.report.numbers import Interval, Paired, Points
from dentbench.report.table import Cell, Column, Table
from dentbench.report.text import latex

LONG: Final = 30
"""A table of more rows than this is set in parts."""

_SYMBOLS: Final = {
    "Delta": r"$\Delta$",
    "Sigma": r"$\Sigma$",
    "Linf": r"$\ell_\infty$",
    "L2": r"$\ell_2$",
}

_CITED: Final = {
    "arXiv 2105.08714": "wang2021fighting",
    "arXiv 2202.13711": "croce2022evaluating",
    "arXiv 2110.14735": "chen2022towards",
    "arXiv 2301.12576": "wu2023uncovering",
    "arXiv 1802.00420": "athalye2018obfuscated",
    "arXiv 1707.07397": "athalye2018synthesizing",
    "arXiv 1912.00049": "andriushchenko2020square",
    "AutoAttack": "croce2020reliable",
}
"""What is cited where it is named, each with its key in ``references.bib``."""

_DOCUMENT: Final = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage[a4paper,landscape,margin=15mm]{geometry}
%s\begin{document}
%s%s\end{document}
"""

_BIBLIOGRAPHY: Final = r"""\bibliographystyle{plain}
\bibliography{dentbench-references}
"""


def bibliography() -> str:
    """Return the BibTeX entries of everything that is cited."""
    return Path(__file__).with_name("references.bib").read_text(encoding="utf-8")


def to_latex(table: Table, *, standalone: bool = False, cite: bool = False) -> str:
    """Return a ``table`` environment, or a document of it.

    ``cite``: the sources that it names are cited; a document then writes its own bibliography
    file, for bibtex. Needs booktabs and graphicx; T1 fonts and textcomp for straight quotes. A
    table wider than the text is scaled down to it; one of more than ``LONG`` rows becomes several,
    a page each, under one number.
    """
    parts = [
        replace(table, rows=table.rows[start : start + LONG])
        for start in range(0, len(table.rows), LONG)
    ] or [table]
    body = "".join(_float(table, part, number) for number, part in enumerate(parts))
    needs = r"% needs \usepackage[T1]{fontenc} \usepackage{textcomp,booktabs,graphicx}"
    if cite:
        body = _cited(body)
    if not standalone:
        return f"{needs}\n{body}"
    if not cite:
        return _DOCUMENT % ("", body, "")
    file = f"\\begin{{filecontents*}}[overwrite]{{dentbench-references.bib}}\n{bibliography()}"
    return _DOCUMENT % (f"{file}\\end{{filecontents*}}\n", body, _BIBLIOGRAPHY)


def _cited(body: str) -> str:
    """Return LaTeX with a citation after the first mention of each source."""
    for name, key in _CITED.items():
        body = body.replace(name, rf"{name}~\cite{{{key}}}", 1)
    return body


def _float(table: Table, part: Table, number: int) -> str:
    """Return the environment of a part; marks and notes are the whole table's."""
    lines = [
        r"\begin{table}[tp]",
        r"\centering",
        r"\addtocounter{table}{-1}" if number else "",
        rf"\caption{{{_caption(table)}{' (continued)' if number else ''}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{_preamble(table)}}}",
        r"\toprule",
        *_head(table.columns),
        r"\midrule",
        *_body(table, part),
        r"\bottomrule",
        r"\end{tabular}}",
        *([] if number else _notes(table)),
        r"\end{table}",
        r"\clearpage" if len(table.rows) > LONG else "",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def _caption(table: Table) -> str:
    return " ".join(filter(None, (f"{latex(table.title)}.", latex(table.caption))))


def _preamble(table: Table) -> str:
    return "".join(column.align[0] for column in table.columns)


def _head(columns: Sequence[Column]) -> list[str]:
    titles = " & ".join(" ".join(map(_word, column.title.split())) for column in columns)
    if not any(column.group for column in columns):
        return [rf"{titles} \\"]
    cells, rules, start = [], [], 1
    for group, width in spans(columns):
        if group:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{latex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        else:
            cells.append(" & ".join([""] * width))
        start += width
    return [" & ".join(cells) + r" \\", " ".join(rules), rf"{titles} \\"]


def _word(word: str) -> str:
    return _SYMBOLS.get(word, latex(word))


def spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return each run of columns under one shared heading: the heading and how many."""
    runs: list[tuple[str, int]] = []
    for column in columns:
        if runs and runs[-1][0] == column.group:
            runs[-1] = (column.group, runs[-1][1] + 1)
        else:
            runs.append((column.group, 1))
    return runs


def _body(table: Table, part: Table) -> list[str]:
    lines: list[str] = []
    ruled = table.stub > 0
    for stub, rows in part.groups():
        if lines and ruled:
            lines.append(r"\midrule")
        names = [_cell(table, cell) for cell in stub]
        for row in rows:
            lines.append(" & ".join([*names, *(_cell(table, cell) for cell in row)]) + r" \\")
            names = [""] * len(names)
    return lines


def _cell(table: Table, cell: Cell) -> str:
    if not cell.notes:
        return _value(cell)
    marks = ",".join(sorted(table.footnotes[note] for note in cell.notes))
    return rf"{_value(cell)}\textsuperscript{{{marks}}}"


def _value(cell: Cell) -> str:
    value = cell.value
    if isinstance(value, Interval):
        return str(value).replace("-", "--")
    if isinstance(value, Points):
        return f"${value}$"
    if isinstance(value, Paired):
        points, rest = str(value).split(" (")
        counts, p_value = rest.removesuffix(")").split(", ")
        gained, lost = counts.split()
        return f"${points}$ (${gained}$ ${lost}$, ${p_value}$)"
    return latex(cell.text)


def _notes(table: Table) -> list[str]:
    notes = [rf"\textsuperscript{{{mark}}}~{latex(note)}" for note, mark in table.footnotes.items()]
    notes += map(latex, table.notes)
    return [r"\par\smallskip", *(rf"{{\footnotesize\raggedright {note}\par}}" for note in notes)]
