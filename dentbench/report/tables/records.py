"""Records to tables: the paper's Table 1 and 2, the released README's, and one row per record."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

from dentbench.records.outcome import NATURAL, Record
from dentbench.records.outcome import WORST as WORST_CASE
from dentbench.report import coupling, departures
from dentbench.report.commands import short_key
from dentbench.report.numbers import Points, Share
from dentbench.report.table import NOT_RUN, Cell, Column, Table
from dentbench.report.tables.ablation import table2
from dentbench.report.tables.batch_mates import batch_mates
from dentbench.report.tables.cells import (
    ACCURACY,
    INTERVAL_COLUMN,
    INTERVALS,
    NEWLY,
    NEWLY_BROKEN,
    NOT_ROBUSTBENCH,
    WORST,
    WORST_BATCH,
    interval_cell,
    newly_broken,
)
from dentbench.report.tables.defenses import skipped_text
from dentbench.report.tables.natural import natural
from dentbench.report.tables.protocols import protocols
from dentbench.report.tables.published import readme, table1
from dentbench.report.verdict import kind_of

__all__ = [
    "all_records",
    "batch_mates",
    "natural",
    "protocols",
    "readme",
    "summary",
    "table1",
    "table2",
]

# --- one row per record ---------------------------------------------------------------------------


def all_records(records: Sequence[Record], models: Collection[str] | None = None) -> Table:
    """Return a table of one row per record, those of one model, data set and attack together."""
    records = [record for record in records if models is None or record.model in models]
    protocols, named = _protocols(records), departures.publish_otherwise(records)
    columns = (
        Column("model"),
        Column("data set"),
        Column("attack"),
        Column("norm"),
        Column("eps"),
        Column("images", "right"),
        Column("mode"),
        Column("steps", "right"),
        Column("settings"),
        *([Column("published protocol")] if named else []),
        Column("natural", "right"),
        *(Column(name, "right", "robust") for name in protocols),
        Column("worst", "right"),
        INTERVAL_COLUMN,
        Column("worst under"),
        Column("minus static", "right"),
        Column("verdict"),
        Column("key"),
    )
    grouped: dict[tuple[object, ...], list[list[object]]] = {}
    for record in records:
        stub = (record.model, record.dataset, _attack(record), record.norm, record.eps, record.n)
        grouped.setdefault(stub, []).append([*stub, *_record_cells(record, protocols, named=named)])
    return Table.of(
        "All records",
        columns,
        [row for rows in grouped.values() for row in rows],
        caption=f"{ACCURACY} of the worst case, natural and under each protocol.",
        notes=(
            WORST,
            f"{INTERVALS} Minus static: worst case against worst case, images gained and lost, "
            "exact McNemar p-value; the verdict's rule is ours.",
            NOT_ROBUSTBENCH,
        ),
        stub=6,
    )


def _attack(record: Record) -> Cell:
    notes = departures.attack_notes(record)
    return Cell(record.attack if notes else record.attack_label, notes)


def _protocols(records: Iterable[Record]) -> list[str]:
    """Return every protocol that a record has, in order of first appearance."""
    return list(dict.fromkeys(name for record in records for name in record.protocol.split()))


def _record_cells(record: Record, protocols: Sequence[str], *, named: bool) -> list[object]:
    """Return a record's cells; ``named``: also by which protocol its defense was published."""
    counts, static = record.protocol_counts, record.mode == "static"
    notes = departures.attack_notes(record)
    right = coupling.shares(record, [NATURAL, WORST_CASE, *counts])
    worst = Cell(right[WORST_CASE], notes) if counts else Cell(NOT_RUN)
    paired = coupling.paired(record)
    return [
        departures.defense_name(record) if record.mode == departures.OTHER else record.mode,
        record.steps,
        departures.whole_text(record),
        *([None if static else departures.published_protocol(record)] if named else []),
        right[NATURAL],
        *[Cell(right[name], notes) if name in counts else None for name in protocols],
        worst,
        interval_cell(worst),
        record.worst_protocol,
        Cell(paired, notes if paired else ()),
        kind_of(record),
        short_key(record),
    ]


def summary(static: Record, defended: Record) -> Table:
    """Return the short table of one evaluation: natural, each protocol and the worst cases."""
    n, notes = defended.n, departures.attack_notes(defended)
    base = Share(static.robust_correct, static.n)
    clean = Share(static.natural_correct, static.n)
    who = departures.defense_name(defended)
    named = {name: departures.named_protocol(defended, name) for name in defended.protocol_counts}
    faced = static.robust_correct if defended.static_correct is None else defended.static_correct
    newly = newly_broken(defended)
    rows = [
        _accuracy("static, natural", clean),
        _accuracy("static, attacked", base, notes=departures.attack_notes(static)),
    ]
    if faced != static.robust_correct:
        rows.append(_accuracy("static, worst case", Share(faced, n), base, notes))
    rows.append(_accuracy(f"{who}, natural", coupling.share(defended, NATURAL), clean))
    for name, called in named.items():
        share = coupling.share(defended, name)
        rows.append(_accuracy(f"{who}, {called}", share, base, notes, newly.get(name)))
    per_batch = coupling.worst_per_batch(defended)
    if per_batch is not None:
        rows.append(_accuracy(f"{who}, worst per batch", per_batch, base, notes))
    worst = _accuracy(f"{who}, worst case", coupling.share(defended, WORST_CASE), base, notes)
    rows.append([*worst[:-1], coupling.paired(defended) or worst[-1]])
    columns = [Column(""), Column("images right", "right"), INTERVAL_COLUMN]
    columns += [Column(name, "right") for name in (NEWLY_BROKEN, "minus static")]
    if not newly:
        columns, rows = [*columns[:3], columns[4]], [[*row[:3], row[4]] for row in rows]
    return Table.of(
        f"{defended.model} on {defended.dataset}, {defended.norm} {defended.eps}, "
        f"{departures.defense_title(defended)}",
        columns,
        rows,
        caption=_caption(static, defended),
        notes=(
            WORST,
            *([NEWLY] if newly else []),
            *([WORST_BATCH] if per_batch is not None else []),
        ),
    )


def _accuracy(
    title: str,
    share: Share,
    static: Share | None = None,
    notes: tuple[str, ...] = (),
    newly: int | None = None,
) -> list[object]:
    """Return a row: an accuracy, its interval, newly broken images and the static difference."""
    gain = None if static is None else Points(share.percent - static.percent)
    return [title, Cell(share, notes), share.interval, newly, gain]


def _caption(static: Record, defended: Record) -> str:
    own = departures.protocols_text(defended)
    parts = (
        f"{defended.n:,} images.{_order(static, defended)}",
        f"Settings of the protocols: {own}." if own else "",
        skipped_text(defended),
        coupling.caption(defended),
        _cost(defended),
    )
    return " ".join(filter(None, parts))


def _cost(defended: Record) -> str:
    """Describe the cost of all protocols beside published; "" where not both were run."""
    passes = json.loads(defended.passes or "{}")
    total, published = sum(passes.values()), passes.get(departures.PUBLISHED)
    if not published or len(defended.protocol_counts) < 2:
        return ""
    return f"{total:,} passes of one image, {total / published:.2f} times those of published."


def _order(static: Record, defended: Record) -> str:
    """Describe the accuracies in the given order, where the order is another."""
    if static.natural_given_correct is None or defended.natural_given_correct is None:
        return ""
    natural = [Share(side.natural_given_correct or 0, side.n) for side in (static, defended)]
    return (
        f" Order: {defended.order}. Natural in the given order: static {natural[0]}, "
        f"{departures.defense_name(defended)} {natural[1]}."
    )
