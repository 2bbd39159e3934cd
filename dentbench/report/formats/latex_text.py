"""Write texts and cells as LaTeX: symbols, citations, and words that may be broken."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from dentbench.report.formats.escape import latex
from dentbench.report.numbers import Interval, Paired, Points
from dentbench.report.table import Cell, Table

NAME: Final = 34
"""A text in the stub of more characters than this is broken into lines."""

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
"""The sources that are cited where they are named, with their keys in ``references.bib``."""


class Sources:
    """Cites each source after its first mention in a text of ours; a user's names are left alone.

    ``wanted``: whether anything is cited.
    """

    def __init__(self, wanted: bool) -> None:
        self._left = dict(_CITED) if wanted else {}

    def cited(self, text: str) -> str:
        """Return a text as LaTeX, with the citations that it calls for."""
        text = latex(text)
        for name, key in [*self._left.items()]:
            match = re.search(rf"(?<![^\s(]){re.escape(latex(name))}(?=$|[\s),;]|\.(\s|$))", text)
            if match:
                text = rf"{text[: match.end()]}~\cite{{{key}}}{text[match.end() :]}"
                del self._left[name]
        return text


def heading_word(word: str) -> str:
    """Return a word of a heading as LaTeX, by its symbol, if any."""
    return _SYMBOLS.get(word, latex(word))


def cell_text(table: Table, cell: Cell, sources: Sources | None = None) -> str:
    """Return a cell with its marks; ``sources`` are cited where its text names them."""
    if sources is not None and isinstance(cell.value, str):
        value = sources.cited(cell.value)
    else:
        value = _value(cell)
    if not cell.notes:
        return value
    marks = ",".join(sorted(table.footnotes[note] for note in cell.notes))
    return rf"{value}\textsuperscript{{{marks}}}"


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
    return " ".join(map(_breakable, cell.text.split(" ")))


@lru_cache(maxsize=1 << 14)
def _breakable(word: str) -> str:
    """Return a word as LaTeX; a long word may be broken after its punctuation."""
    if len(word) <= NAME // 2:
        return latex(word)
    return r"\allowbreak{}".join(map(latex, re.findall(r"[^_/.:=-]*[_/.:=-]+|[^_/.:=-]+", word)))
