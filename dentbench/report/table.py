"""A table as a value: columns, rows and notes; the renderers decide how it looks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from dentbench.report.numbers import Number

Value = str | int | float | Number | None
"""The value of a cell; None is an empty cell."""

NOTEBOOK: Final = "dentbench.report.formats.html:to_html"
"""The function that a notebook shows a table by, loaded late: formats import tables."""

NOT_RUN = "not run"
"""In place of a number that is still to be measured."""


@dataclass(frozen=True)
class Column:
    """A column: its title, the alignment of its cells, and the heading that it shares.

    ``remark``: its sentences explain a row; a narrow terminal shows them below the table.
    """

    title: str
    align: Literal["left", "right", "center"] = "left"
    group: str = ""
    remark: bool = False

    @property
    def full_title(self) -> str:
        """The shared heading and the title."""
        return f"{self.group} {self.title}".strip()


class Cell(NamedTuple):  # made much faster than a frozen dataclass, and there are many
    """A value and the footnotes that qualify it, in full sentences or phrases."""

    value: Value
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The value as people read it, without marks."""
        return "" if self.value is None else str(self.value)


@dataclass(frozen=True)
class Table:
    """A titled grid of cells with a caption and notes.

    ``rows`` may hold plain values; they become :class:`Cell`. The first ``stub`` columns name a
    row: where they repeat the row above, people's formats leave them out and rule a line between
    names. ``notes`` hold for the whole table. A notebook shows it as HTML.
    Raises ``ValueError`` for a row that has not as many cells as there are columns.

    >>> from dentbench.report.numbers import Share
    >>> from dentbench.report.formats.render import render
    >>> table = Table.of("Right", [Column("model"), Column("right", "right")],
    ...                  [["digits-robust", Share(176, 256)]])
    >>> print(render(table, "csv"), end="")
    model,right,notes
    digits-robust,68.75,
    >>> table.rows[0][1].text
    '68.8% (176/256)'
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    notes: tuple[str, ...] = ()
    stub: int = 0

    @classmethod
    def of(
        cls, title: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]], **rest: Any
    ) -> Table:
        """Return a table whose rows are given as plain values, cells or a mixture."""
        # Lists first: a generator takes longer for each of many cells.
        cells = tuple(
            [
                tuple([value if isinstance(value, Cell) else Cell(value) for value in row])
                for row in rows
            ]
        )
        return cls(title, tuple(columns), cells, **rest)

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} of {self.title!r} has {len(row)} cells for "
                    f"{len(self.columns)} columns"
                )

    def _repr_html_(self) -> str:
        module, _, function = NOTEBOOK.partition(":")
        text: str = getattr(importlib.import_module(module), function)(self)
        return text

    @cached_property
    def footnotes(self) -> dict[str, str]:
        """Each footnote's mark (a, b, ... z, aa, ...), in order of first appearance."""
        notes = dict.fromkeys(note for row in self.rows for cell in row for note in cell.notes)
        return {note: _letters(number) for number, note in enumerate(notes)}

    def marks(self, cell: Cell, pattern: str) -> str:
        """Return the footnote marks of a cell, put into ``pattern``; "" where it has none."""
        if not cell.notes:
            return ""
        return pattern.format(",".join(sorted(self.footnotes[note] for note in cell.notes)))

    def groups(self) -> Iterator[tuple[tuple[Cell, ...], list[tuple[Cell, ...]]]]:
        """Yield each run of rows with equal stubs: the stub and the rows, stubs left off."""
        stub: tuple[Cell, ...] | None = None
        rows: list[tuple[Cell, ...]] = []
        for row in self.rows:
            if row[: self.stub] != stub:
                if stub is not None:
                    yield stub, rows
                stub, rows = row[: self.stub], []
            rows.append(row[self.stub :])
        if stub is not None:
            yield stub, rows


def spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return each run of columns under one shared heading: the heading and how many."""
    runs: list[tuple[str, int]] = []
    for column in columns:
        if runs and runs[-1][0] == column.group:
            runs[-1] = (column.group, runs[-1][1] + 1)
        else:
            runs.append((column.group, 1))
    return runs


def _letters(number: int) -> str:
    head = _letters(number // 26 - 1) if number >= 26 else ""
    return head + chr(ord("a") + number % 26)
