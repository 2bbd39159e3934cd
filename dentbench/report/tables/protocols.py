"""The table of protocols: their effect on a defense, beside a description and source."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from dentbench.attacks.catalogue import BLACK_BOXES, PROTOCOLS
from dentbench.records.outcome import WORST as WORST_CASE
from dentbench.records.outcome import Record, eps_of
from dentbench.report import coupling, departures
from dentbench.report.numbers import Points, Share
from dentbench.report.pairing import best_statics
from dentbench.report.table import Cell, Column, Table
from dentbench.report.tables.cells import (
    ACCURACY,
    INTERVAL_COLUMN,
    INTERVALS,
    NEWLY,
    NEWLY_BROKEN,
    WORST,
    newly_broken,
)

COLUMNS = (
    Column("model"),
    Column("defense"),
    Column("protocol"),
    Column("right", "right"),
    INTERVAL_COLUMN,
    Column(NEWLY_BROKEN, "right"),
    Column("minus static", "right"),
    Column("method", remark=True),
    Column("source", remark=True),
)


def protocols(records: Sequence[Record], models: Collection[str] | None = None) -> Table:
    """Return a row for each protocol of each defended record, in the order in which they were run.

    Protocols that could not attack a defense have a row too, with the reason.
    """
    records = [record for record in records if models is None or record.model in models]
    statics = best_statics(records)
    rows: list[list[object]] = []
    for record in records:
        if record.mode != "static":
            rows += _rows(record, statics.get(id(record)))
    counted = any(map(newly_broken, records))
    at = next(place for place, column in enumerate(COLUMNS) if column.title == NEWLY_BROKEN)
    kept = [place for place in range(len(COLUMNS)) if counted or place != at]
    return Table.of(
        "Protocols",
        [COLUMNS[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        caption=f"{ACCURACY}, under each protocol.",
        notes=(
            WORST,
            f"{INTERVALS} A protocol after the first two starts from the points of those before "
            "it, and its count includes the images that they broke.",
            *([NEWLY] if counted else []),
        ),
        stub=2,
    )


def _rows(record: Record, static: Record | None) -> list[list[object]]:
    threat = departures.threat_text(record.norm, eps_of(record))
    settings = departures.whole_text(record)
    title = departures.defense_title(record) + (f", {settings}" if settings else "")
    model = f"{record.model}, {record.dataset}, {threat}"
    stub = [Cell(model, departures.attack_notes(record)), title]
    base = Share(static.robust_correct, static.n) if static is not None else None
    rows: list[list[object]] = []
    if static is not None and base is not None:
        about = "the static model itself is attacked"
        right = Cell(base, departures.check_notes(static))
        rows.append([*stub, "static model", right, base.interval, None, None, about, None])
        if record.static_correct not in (None, static.robust_correct):
            share = Share(record.static_correct, record.n)
            about = "the static model at the points found against the defense too"
            cells = [share, share.interval, None, Points(share.percent - base.percent)]
            rows.append([*stub, "static model, worst case", *cells, about, None])
    newly = newly_broken(record)
    for name in record.protocol_counts:
        card, share = PROTOCOLS[name], coupling.share(record, name)
        minus = None if base is None else Points(share.percent - base.percent)
        about = card.summary
        if name in BLACK_BOXES and record.decision_queries:
            about += f" ({record.decision_queries:,} queries)"
        called = departures.named_protocol(record, name)
        cells = [share, share.interval, newly.get(name), minus]
        rows.append([*stub, called, *cells, about, card.source])
    per_batch = coupling.worst_per_batch(record)
    if per_batch is not None:
        minus = None if base is None else Points(per_batch.percent - base.percent)
        about = "every batch at the points worst for it as a whole"
        cells = [per_batch, per_batch.interval, None, minus]
        rows.append([*stub, "worst per batch", *cells, about, None])
    worst, paired = coupling.share(record, WORST_CASE), coupling.paired(record)
    about = "right without an attack and under all of these"
    rows.append([*stub, "worst case", worst, worst.interval, None, paired, about, None])
    for name, reason in json.loads(record.skipped or "{}").items():
        source = _about(name)[1]
        rows.append([*stub, name, "skipped", None, None, None, f"skipped: {reason}", source])
    return rows


def _about(name: str) -> tuple[str, str]:
    """Return a protocol's description and source; nothing for a user's own protocol."""
    if name not in PROTOCOLS:
        return "", ""
    return PROTOCOLS[name].summary, PROTOCOLS[name].source
