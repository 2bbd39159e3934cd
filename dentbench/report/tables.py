"""Records to tables: the paper's Table 1 and 2, the released README's, and one row per record."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from dentbench.outcome import Record
from dentbench.report import setting
from dentbench.report.ablation import table2
from dentbench.report.beside import skipped_text
from dentbench.report.cells import (
    INTERVALS,
    NOT_ROBUSTBENCH,
    WORST,
    interval_cell,
)
from dentbench.report.numbers import Paired, Points, Share
from dentbench.report.paired import readme, table1
from dentbench.report.protocols import protocols
from dentbench.report.table import NOT_RUN, Cell, Column, Table
from dentbench.report.verdict import kind_of

__all__ = ["all_records", "protocols", "readme", "summary", "table1", "table2"]

# --- one row per record ---------------------------------------------------------------------------


def all_records(records: Sequence[Record], models: Collection[str] | None = None) -> Table:
    """Return a table of one row per record, those of one model, data set and attack together."""
    records = [one for one in records if models is None or one.model in models]
    protocols = _protocols(records)
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
        Column("natural", "right"),
        *(Column(name, "right", "robust") for name in protocols),
        Column("worst", "right"),
        Column("95% interval", "right"),
        Column("worst under"),
        Column("minus static", "right"),
        Column("verdict"),
    )
    grouped: dict[tuple[object, ...], list[list[object]]] = {}
    for one in records:
        stub = (one.model, one.dataset, _attack(one), one.norm, one.eps, one.n)
        grouped.setdefault(stub, []).append([*stub, *_record_cells(one, protocols)])
    return Table.of(
        "All records",
        columns,
        [row for rows in grouped.values() for row in rows],
        caption="Accuracy in percent (images right/images), natural and under each protocol.",
        notes=(
            WORST,
            f"{INTERVALS} Minus static: worst case against worst case, images gained and lost, "
            "exact McNemar p-value; the verdict's rule is ours.",
            NOT_ROBUSTBENCH,
        ),
        stub=6,
    )


def _attack(record: Record) -> Cell:
    notes = setting.attack_notes(record)
    return Cell(record.attack if notes else record.attack_label, notes)


def _protocols(records: Iterable[Record]) -> list[str]:
    """Return every protocol that a record has, in order of first appearance."""
    return list(dict.fromkeys(name for one in records for name in one.protocol.split()))


def _record_cells(record: Record, protocols: Sequence[str]) -> list[object]:
    counts, n = record.protocol_counts, record.n
    notes = setting.attack_notes(record)
    worst = Cell(Share(record.robust_correct, n) if counts else NOT_RUN, notes if counts else ())
    paired = None
    if record.gained is not None and record.lost is not None:
        paired = Paired(record.gained, record.lost, n)
    return [
        record.defense if record.mode == setting.OTHER else record.mode,
        record.steps,
        setting.whole_text(record),
        Share(record.natural_correct, n),
        *(Cell(Share(counts[name], n), notes) if name in counts else None for name in protocols),
        worst,
        interval_cell(worst),
        record.worst_protocol,
        Cell(paired, notes if paired else ()),
        kind_of(record),
    ]


def summary(static: Record, defended: Record) -> Table:
    """Return the short table of one evaluation: static, each protocol and the worst case."""
    counts, n = defended.protocol_counts, defended.n
    notes = setting.attack_notes(defended)
    base = Share(static.robust_correct, static.n)
    who = setting.defense_name(defended)
    rows: list[list[object]] = [
        [
            "static model",
            Share(static.natural_correct, static.n),
            Cell(base, notes),
            base.interval,
            None,
        ]
    ]
    natural: Share | None = Share(defended.natural_correct, n)
    for name, count in counts.items():
        share = Share(count, n)
        gain = Points(share.percent - base.percent)
        rows.append([f"{who}, {name}", natural, Cell(share, notes), share.interval, gain])
        natural = None
    worst = Share(defended.robust_correct, n)
    paired: object = Points(worst.percent - base.percent)
    if defended.gained is not None and defended.lost is not None:
        paired = Paired(defended.gained, defended.lost, n)
    rows.append([f"{who}, worst case", natural, Cell(worst, notes), worst.interval, paired])
    return Table.of(
        f"{defended.model} on {defended.dataset}, {defended.norm} {defended.eps}, "
        f"{setting.defense_title(defended)}",
        (
            Column(""),
            Column("natural", "right"),
            Column("under attack", "right"),
            Column("95% interval", "right"),
            Column("minus static", "right"),
        ),
        rows,
        caption=_caption(static, defended),
    )


def _caption(static: Record, defended: Record) -> str:
    own = setting.protocols_text(defended)
    parts = (
        f"{defended.n:,} images.{_order(static, defended)}",
        f"Settings of the protocols: {own}." if own else "",
        skipped_text(defended),
    )
    return " ".join(filter(None, parts))


def _order(static: Record, defended: Record) -> str:
    """Say what the accuracies are in the given order, where the order is another."""
    if static.natural_given_correct is None or defended.natural_given_correct is None:
        return ""
    natural = [Share(one.natural_given_correct or 0, one.n) for one in (static, defended)]
    return (
        f" Order: {defended.order}. Natural in the given order: static {natural[0]}, "
        f"{setting.defense_name(defended)} {natural[1]}."
    )
