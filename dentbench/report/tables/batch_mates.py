"""The table of batch mates: a defense in other batches, and beside malicious mates."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, Final

from dentbench.records.outcome import Record
from dentbench.report import departures
from dentbench.report.numbers import Share
from dentbench.report.table import Cell, Column, Table
from dentbench.report.tables.cells import INTERVAL_COLUMN, INTERVALS

CAPTION: Final = (
    "The worst points so far judged in other batches. Natural: right there unperturbed; under "
    "attack: and at the worst point. Lost: right in the declared batch, wrong there, unperturbed; "
    "no attack broke those. Broken: right in both, broken by nothing before, wrong there at the "
    "worst point; these count in the worst case."
)
INVADED: Final = "natural accuracy of the unperturbed images, before and after their mates attack"
NAMES: Final = {
    "declared": "declared",
    "shuffled": "shuffled",
    "label-sorted": "sorted by label",
    "among-natural": "among natural images",
    "alone": "alone",
    "shuffled-ascent": "shuffled, attacked there",
    "label-sorted-ascent": "sorted by label, attacked there",
    "among-natural-ascent": "among natural images, attacked there",
    "recombined": "recombined, all of them",
}
"""The titles of the compositions of ``dentbench/attacks/protocols/batch_mates.py``."""


def batch_mates(records: Sequence[Record], models: Collection[str] | None = None) -> Table:
    """Return a row for every composition and share of malicious mates of every record with any."""
    rows = [
        [record.model, record.dataset, _defense(record), *row]
        for record in records
        if record.batch_mates and (models is None or record.model in models)
        for row in _rows(json.loads(record.batch_mates), record.n)
    ]
    return Table.of(
        "Batch mates: other batches, and mates that attack their neighbours",
        (
            *(Column("model"), Column("data set"), Column("defense")),
            *(Column("batches"), Column("natural", "right"), Column("under attack", "right")),
            *(INTERVAL_COLUMN, Column("lost", "right"), Column("broken", "right")),
        ),
        rows,
        caption=CAPTION,
        notes=(INTERVALS,),
        stub=3,
    )


def _defense(record: Record) -> str:
    return ", ".join(
        filter(None, (departures.defense_title(record), departures.whole_text(record)))
    )


def _rows(details: dict[str, Any], n: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, counts in details["compositions"].items():
        attacked = Share(counts["attacked"], n)
        shares = [Share(counts["natural"], n), attacked, attacked.interval]
        rows.append([NAMES.get(name, name), *shares, counts.get("lost"), counts.get("broken")])
    for share, counts in details["invading"].items():
        total = counts["unperturbed"]
        after = Share(counts["right_after"], total)
        title = Cell(f"{share} malicious ({counts['malicious']})", (INVADED,))
        rows.append(
            [title, Share(counts["right_before"], total), after, after.interval, None, None]
        )
    return rows
