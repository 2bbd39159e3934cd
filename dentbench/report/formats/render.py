"""The text formats of a table: Markdown, LaTeX (booktabs), CSV, JSON and HTML.

Every text that a user named is escaped for the format. Footnote marks are letters; CSV, which has
no place for footnotes, has a last column ``notes`` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from dentbench.errors import SpecError
from dentbench.report.formats.csv import to_csv
from dentbench.report.formats.html import to_html
from dentbench.report.formats.json import to_json
from dentbench.report.formats.latex import to_latex
from dentbench.report.formats.markdown import to_markdown
from dentbench.report.table import Table


def render_all(
    tables: Sequence[Table], name: str, *, standalone: bool = False, cite: bool = False
) -> str:
    """Return several tables in one text of a format; of JSON it is a list where there are several.

    Options and errors are those of :func:`render`.
    """
    if len(tables) == 1:
        return render(tables[0], name, standalone=standalone, cite=cite)
    if name == "latex":
        return to_latex(*tables, standalone=standalone, cite=cite)
    texts = [render(table, name, standalone=standalone, cite=cite) for table in tables]
    if name == "json":
        return "[\n" + ",\n".join(text.rstrip("\n") for text in texts) + "\n]\n"
    return "\n".join(texts)


def render(table: Table, name: str, *, standalone: bool = False, cite: bool = False) -> str:
    """Return a table in a format of :data:`FORMATS`, ending in a line end.

    ``standalone``: a whole document instead of a fragment; ``cite``: with citations of the
    sources; both are of LaTeX alone. Raises :class:`~dentbench.errors.SpecError` for an unknown
    format or a format that has neither.
    """
    if name not in FORMATS:
        raise SpecError(f"format is {name!r}; allowed: {', '.join(FORMATS)}")
    if name == "latex":
        return to_latex(table, standalone=standalone, cite=cite)
    if standalone or cite:
        raise SpecError(f"standalone and cite are of format latex, not {name}")
    return FORMATS[name](table)


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
