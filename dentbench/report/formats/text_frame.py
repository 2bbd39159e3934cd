"""A table's texts as a pandas DataFrame, which pandas writes as Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from dentbench.report.table import Cell, Table


def to_frame(
    table: Table, titles: Sequence[str], text: Callable[[Cell], str], *, sparse: bool = True
) -> pd.DataFrame:
    """Return a row per row of a table, with the text of every cell, under these titles.

    ``sparse``: the stub is left out where it repeats the row above.
    """
    rows = []
    for stub, group in table.groups():
        names = [text(cell) for cell in stub]
        for row in group:
            rows.append([*names, *map(text, row)])
            if sparse:
                names = [""] * len(names)
    return pd.DataFrame(rows, columns=list(titles), dtype="object")
