"""List records in a line each, or all of a single record: its checks and its columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

from dentbench.attacks.checks import from_json
from dentbench.records.outcome import WORST, Record, column_names, eps_of
from dentbench.report import coupling, departures
from dentbench.report.commands import short_key
from dentbench.report.table import Column, Table
from dentbench.report.verdict import kind_of

SAID: Final = frozenset(
    {
        *(
            "schema",
            "by_protocol",
            "newly_broken",
            "checks",
            "static_checks",
            "skipped",
            "versions",
        ),
        *("batch_mates", "diagnostics", "by_batch", "budgets", "passes", "stage_versions"),
    }
)
"""Columns that other tables of :func:`~dentbench.cli.show.show` have, or that are for programs."""


APART: Final = (
    *("dataset", "count", "attack", "iterations", "seed", "batch_size", "lr", "loss", "statistics"),
    *("blur", "sigma", "order", "precision", "layers", "optimizer"),
)
"""Columns that tell records apart whose model, threat model and defense are the same."""

NOTHING: Final = frozenset({"", "None", "{}"})
"""How an empty column is written."""


def listing(records: Sequence[Record], title: str = "Records") -> Table:
    """Return one row per record, the newest last: its key, settings and results."""
    rows: list[list[object]] = []
    for record, apart in zip(records, _told_apart(records), strict=True):
        attacked = bool(record.protocol)
        threat = departures.threat_text(record.norm, eps_of(record)) if attacked else "no attack"
        right = coupling.share(record, WORST if attacked else "natural")
        results = [right, "" if record.mode == "static" or not attacked else kind_of(record)]
        rows.append(
            [
                short_key(record),
                record.model,
                threat,
                departures.defense_title(record) + apart,
                *results,
            ]
        )
    columns = (
        *(Column("key"), Column("model"), Column("threat model"), Column("defense")),
        *(Column("right", "right"), Column("verdict")),
    )
    caption = "Right: in the worst case of all protocols that were run; without an attack, natural."
    return Table.of(title, columns, rows, caption=caption)


def _told_apart(records: Sequence[Record]) -> list[str]:
    """Return what tells each record from most of those whose row is the same but for its results.

    Such as ", seed 2, lr 0.05"; "" of a record that is as most are.
    """
    rows: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        rows.setdefault(_row_of(record), []).append(record)
    usual = {
        row: {name: Counter(getattr(record, name) for record in alike) for name in APART}
        for row, alike in rows.items()
        if len(alike) > 1
    }
    texts = []
    for record in records:
        counted = usual.get(_row_of(record), {})
        odd = {
            name: getattr(record, name)
            for name, values in counted.items()
            if getattr(record, name) not in (None, values.most_common(1)[0][0])
        }
        texts.append("".join(f", {name.replace('_', ' ')} {odd[name]}" for name in odd))
    return texts


def _row_of(record: Record) -> tuple[str, ...]:
    return record.model, record.norm, record.eps, departures.defense_title(record)


def checks(record: Record) -> Table:
    """Return every check of a record: whether it passed, and its sentence."""
    rows = [
        [
            check.name,
            {True: "passed", False: "FAILED", None: "not made"}[check.passed],
            check.sentence,
        ]
        for check in from_json(record.checks).values()
    ]
    return Table.of("Checks", (Column("check"), Column("result"), Column("finding")), rows)


def facts(record: Record) -> list[tuple[str, str]]:
    """Return every column of a record that is not empty and in no table, and its value.

    Programs' versions come last.
    """
    values = vars(record)
    columns = [(name, str(values[name])) for name in column_names() if name not in SAID]
    versions = json.loads(record.versions or "{}")
    libraries = ", ".join(f"{name} {value}" for name, value in versions.items())
    return [
        (name, text) for name, text in (*columns, ("versions", libraries)) if text not in NOTHING
    ]
