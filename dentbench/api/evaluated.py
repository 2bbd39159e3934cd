"""The two records of an evaluation, with their table and verdict."""

from __future__ import annotations

from html import escape
from io import StringIO
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from dentbench.attacks.checks import failed
from dentbench.records.outcome import Record
from dentbench.report.formats.render import render
from dentbench.report.formats.terminal import WIDTH, print_table
from dentbench.report.next_step import next_step
from dentbench.report.table import Table
from dentbench.report.tables import records as tables
from dentbench.report.verdict import Verdict, verdict

if TYPE_CHECKING:
    from pandas import DataFrame


class Evaluated(NamedTuple):
    """The static and the defended record of one evaluation; a notebook shows their table."""

    static: Record
    defended: Record

    @property
    def table(self) -> Table:
        """The short table: natural, each protocol, and the worst case beside the static model's."""
        if not self.defended.protocol:
            return tables.natural(self)
        return tables.summary(self.static, self.defended)

    @property
    def verdict(self) -> Verdict:
        """The verdict on the defense; without an attack there is none: SpecError."""
        return verdict(self.static, self.defended)

    def to_pandas(self) -> DataFrame:
        """Return both records as :func:`dentbench.read_results` does: a row per protocol."""
        from dentbench.records.frame import by_protocol

        return by_protocol(self)

    def __str__(self) -> str:
        """Return the short table, the verdict and the failed checks, as on a terminal."""
        text = StringIO()
        print_table(self.table, Console(file=text, width=WIDTH, no_color=True))
        lines = [text.getvalue().rstrip()]
        lines += [self.verdict.sentence] if self.defended.protocol else []
        return "\n\n".join([*lines, *self._failed(), *self._next()])

    def _next(self) -> list[str]:
        """Return the next step of a verdict that is not final; nothing of another."""
        step = next_step(self.verdict, self.defended) if self.defended.protocol else ""
        return [step] if step else []

    def _failed(self) -> list[str]:
        whose = ("Check of the static model", self.static), ("Check", self.defended)
        return [
            f"{of} {check.name} failed: {check.sentence}."
            for of, record in whose
            for check in failed(record.checks)
        ]

    def _repr_html_(self) -> str:
        attacked = bool(self.defended.protocol)
        said = [f"<p><strong>{escape(self.verdict.sentence)}</strong></p>"] if attacked else []
        said += [f"<p>{escape(sentence)}</p>" for sentence in (*self._failed(), *self._next())]
        return "\n".join([render(self.table, "html"), *said])
