"""Records to tables: the paper's Table 1 and 2, the released README's, and one row per record."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from dentbench.outcome import Record
from dentbench.report import setting
from dentbench.report.cells import (
    INTERVALS,
    MODES,
    NOT_ROBUSTBENCH,
    WORST,
    attacked_cell,
    best,
    interval_cell,
    natural_cell,
)
from dentbench.report.numbers import Paired, Percent, Points, Share
from dentbench.report.paired import readme, table1
from dentbench.report.published import TABLE2, TABLE2_SOURCE, AblationRow
from dentbench.report.table import NOT_RUN, Cell, Column, Table
from dentbench.report.verdict import kind_of
from dentbench.spec import parse_eps

__all__ = ["all_records", "readme", "summary", "table1", "table2"]

ABLATION_THREATS: Final = (("Linf", parse_eps("1.5/255")), ("L2", parse_eps("0.2")))
"""The threat models of Table 2: Linf 1.5/255 and L2 0.2."""

# --- Table 2 --------------------------------------------------------------------------------------

ABLATION_COLUMNS: Final = (
    Column("Delta"),
    Column("Sigma"),
    Column("step", "right"),
    Column("row"),
    Column("time", "right"),
    Column("natural", "right"),
    Column("Linf 1.5/255", "right"),
    Column("L2 0.2", "right"),
)


def table2(records: Sequence[Record], models: Collection[str] | None = None) -> Table:
    """Return the paper's Table 2, the published row under ours for every model that was run.

    Ours are records at Linf 1.5/255 or L2 0.2, static or batch-wise, under the published
    protocol. The paper's model is not established, so no difference is taken.
    """
    threats = [
        [r for r in records if not setting.threat_departures(r, *t)] for t in ABLATION_THREATS
    ]
    rows: list[list[object]] = []
    for row in TABLE2:
        stub = ["yes" if row.delta else "no", row.sigma, row.steps]
        matching = [
            [r for r in group if _ablation_slot(r) == _published_slot(row)] for group in threats
        ]
        names = dict.fromkeys((r.model, r.dataset) for group in matching for r in group)
        for model, dataset in names:
            if models is None or model in models:
                found = [
                    best([r for r in group if (r.model, r.dataset) == (model, dataset)])
                    for group in matching
                ]
                rows.append([*stub, model, *_ablation_cells(found)])
        if not rows or rows[-1][:3] != stub:
            rows.append([*stub, "ours", *[NOT_RUN] * 4])
        values = (row.natural, row.linf, row.l2)
        rows.append([*stub, "published", f"{row.time:.1f}x", *map(Percent, values)])
    return Table.of(
        "Dent's model (Delta) and input (Sigma) adaptation of a nominal model (paper, Table 2)",
        ABLATION_COLUMNS,
        rows,
        caption="Accuracy in percent (images right/images); time relative to the static model.",
        notes=(
            f"Published: {TABLE2_SOURCE}; ours are other models, so no difference is taken.",
            "Under attack: the published protocol; the worst case is in the table of all records.",
            NOT_ROBUSTBENCH,
        ),
        stub=3,
    )


def _ablation_slot(record: Record) -> tuple[bool, str, int] | None:
    """Return a record's Delta, Sigma and steps, or None where Table 2 has no such row."""
    if record.mode == "static":
        return False, "none", 0
    return (True, "none", record.steps or 0) if record.mode == "batch" else None


def _published_slot(row: AblationRow) -> tuple[bool, str, int]:
    return row.delta, row.sigma, row.steps


def _ablation_cells(found: Sequence[Record | None]) -> list[object]:
    natural = best([record for record in found if record is not None])
    attacked = (
        attacked_cell(record, threat)
        for record, threat in zip(found, ABLATION_THREATS, strict=True)
    )
    return ["not measured", natural_cell(natural), *attacked]


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
        record.mode,
        record.steps,
        setting.settings_text(record),
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
        rows.append([f"dent, {name}", natural, Cell(share, notes), share.interval, gain])
        natural = None
    worst = Share(defended.robust_correct, n)
    paired: object = Points(worst.percent - base.percent)
    if defended.gained is not None and defended.lost is not None:
        paired = Paired(defended.gained, defended.lost, n)
    rows.append(["dent, worst case", natural, Cell(worst, notes), worst.interval, paired])
    return Table.of(
        f"{defended.model} on {defended.dataset}, {defended.norm} {defended.eps}, "
        f"{MODES[defended.mode]} dent, {defended.steps} steps",
        (
            Column(""),
            Column("natural", "right"),
            Column("under attack", "right"),
            Column("95% interval", "right"),
            Column("minus static", "right"),
        ),
        rows,
        caption=f"{n:,} images.",
    )
