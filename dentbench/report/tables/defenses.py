"""Set defenses of a model beside each other, with the protocols that could not attack each."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dentbench.records.outcome import NATURAL, Record
from dentbench.records.outcome import WORST as WORST_CASE
from dentbench.report import coupling, departures
from dentbench.report.table import Cell, Column, Table
from dentbench.report.tables.cells import INTERVAL_COLUMN, INTERVALS, WORST
from dentbench.report.verdict import kind_of


def beside(static: Record, defended: Sequence[Record]) -> Table:
    """Return one row per defense of a model under one attack, the static model's first."""
    protocols = list(dict.fromkeys(name for record in defended for name in record.protocol_counts))
    named = departures.publish_otherwise(defended)
    columns = (
        Column("defense"),
        Column("settings"),
        *([Column("published protocol")] if named else []),
        Column("natural", "right"),
        *(Column(name, "right", "robust") for name in protocols),
        Column("worst", "right"),
        INTERVAL_COLUMN,
        Column("minus static", "right"),
        Column("verdict"),
    )
    rows = [_row(record, protocols, named=named) for record in (static, *defended)]
    skipped = filter(None, (skipped_text(record, named=True) for record in defended))
    coupled = dict.fromkeys(filter(None, map(coupling.caption, defended)))
    return Table.of(
        f"{static.model} on {static.dataset}, {static.norm} {static.eps}",
        columns,
        rows,
        caption=" ".join((f"{static.n:,} images. Accuracy in percent.", *skipped, *coupled)),
        notes=(WORST, INTERVALS),
    )


def _row(record: Record, protocols: Sequence[str], *, named: bool) -> list[object]:
    """Return a record's row; ``named``: also by which protocol its defense was published."""
    counts = record.protocol_counts
    notes = departures.attack_notes(record)
    right = coupling.shares(record, [NATURAL, WORST_CASE, *counts])
    static = record.mode == "static"
    return [
        departures.defense_title(record),
        departures.whole_text(record),
        *([None if static else departures.published_protocol(record)] if named else []),
        right[NATURAL],
        *(
            Cell(right[name], notes) if name in counts and not static else None
            for name in protocols
        ),
        Cell(right[WORST_CASE], notes),
        right[WORST_CASE].interval,
        coupling.paired(record),
        None if static else kind_of(record),
    ]


def skipped_text(record: Record, *, named: bool = False) -> str:
    """Say which protocols could not attack a defense, and why; "" when all could.

    ``named``: with the defense's name.
    """
    reasons: dict[str, list[str]] = {}
    for name, reason in json.loads(record.skipped or "{}").items():
        reasons.setdefault(reason, []).append(name)
    if not reasons:
        return ""
    listed = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    return f"Skipped{f' for {departures.defense_name(record)}' if named else ''}: {listed}."
