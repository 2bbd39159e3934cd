"""Static models beside dent: the paper's Table 1 and the table of the released README."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Final

from dentbench.paper import README, TABLE1, THREAT, PairedRow, PairedTable
from dentbench.records.outcome import Record, eps_of
from dentbench.report import departures
from dentbench.report.numbers import Percent, Points, Share
from dentbench.report.pairing import best_statics
from dentbench.report.table import Cell, Column, Table
from dentbench.report.tables.cells import (
    ACCURACY,
    IMAGES,
    INTERVAL,
    MODES,
    NOTES,
    OURS,
    PUBLISHED,
    ROW,
    attacked_cell,
    best,
    interval_cell,
    natural_cell,
    published_notes,
)

DECLARED: Final = (
    "Ours on declared batches, the only ones that the defense sees; the published runs let "
    "AutoAttack re-pack them (--batching autoattack)."
)

PAIRED_COLUMNS: Final = (
    Column("mode"),
    Column("model"),
    ROW,
    Column("static", "right", "natural"),
    Column("dent", "right", "natural"),
    Column("static", "right", "adversarial"),
    Column("dent", "right", "adversarial"),
    Column("dent, worst", "right", "adversarial"),
)


def table1(
    records: Sequence[Record],
    models: Collection[str] | None = None,
    *,
    threat: tuple[str, Fraction] = THREAT,
    not_run: bool = True,
) -> Table:
    """Return the paper's Table 1: modes x models, static and dent, ours beside published.

    Records that match the paper's setting stand beside a published number; others of the same
    mode and steps follow in rows of their own, every number marked. All are of one ``threat``
    model; published rows stand at the paper's alone. ``models``: only these. ``not_run``: with the
    published rows of which nothing was run.
    """
    return _paired_table(TABLE1, records, models, lambda record: True, threat, not_run)


def readme(
    records: Sequence[Record], models: Collection[str] | None = None, *, not_run: bool = True
) -> Table:
    """Return the table of the released README: its seven models, instance-wise, 6 steps."""
    names = {row.model for row in README.rows}
    return _paired_table(
        README, records, models, lambda record: record.model in names, THREAT, not_run
    )


def _paired_table(
    table: PairedTable,
    records: Sequence[Record],
    models: Collection[str] | None,
    others: Callable[[Record], bool],
    threat: tuple[str, Fraction],
    not_run: bool,
) -> Table:
    def is_named(model: str) -> bool:
        return models is None or model in models

    records = [  # natural accuracy has a table of its own
        record
        for record in records
        if record.protocol and is_named(record.model) and (record.norm, eps_of(record)) == threat
    ]
    papers = threat == THREAT
    wanted = [row for row in table.rows if papers and is_named(row.model)]
    settings = {(row.mode, row.steps) for row in table.rows}
    defended = [record for record in records if (record.mode, record.steps) in settings]
    statics = best_statics(records)
    rows: list[list[object]] = []
    used: list[Record | None] = []
    for row, static, ours in _beside(wanted, records, statics):
        if not_run or ours is not None or static is not None:
            rows += _paired_rows(row, table.decimals, static, ours, threat)
        used.append(ours)
    published = {_slot(row) for row in table.rows}
    rest = [r for r in defended if others(r) and not (_slot(r) in published and _fits(r))]
    for ours in _distinct(rest):
        rows += _paired_rows(None, table.decimals, statics.get(id(ours)), ours, threat)
        used.append(ours)
    order = [f"{MODES[mode]}, {steps} steps" for mode, steps in sorted(settings)]
    rows.sort(key=lambda row: order.index(str(row[0])))  # the paper's groups, each in one piece
    return Table.of(
        _title(table, threat),
        PAIRED_COLUMNS,
        rows,
        caption=f"{ACCURACY}, natural and under attack: the published protocol and, last, the "
        f"worst case over all that were run.{f' {IMAGES}' if papers else ''}",
        notes=_paired_notes(table, used) if papers else NOTES,
        stub=2,
    )


def _paired_notes(table: PairedTable, used: Sequence[Record | None]) -> tuple[str, ...]:
    coupled = (record for record in used if record is not None and not record.separable)
    declared = any(record.batching == "declared" for record in coupled)
    return (*published_notes(table.source), *([DECLARED] if declared else []))


def _beside(
    wanted: Sequence[PairedRow], records: Sequence[Record], statics: Mapping[int, Record]
) -> Iterator[tuple[PairedRow, Record | None, Record | None]]:
    """Yield each published row with our static and defended record of its settings, if any."""
    fitting = [record for record in records if _fits(record)]
    for row in wanted:
        ours = best([record for record in fitting if _slot(record) == _slot(row)])
        alone = [r for r in fitting if r.mode == "static" and r.model == row.model]
        yield row, statics.get(id(ours)) or best(alone), ours


def _title(table: PairedTable, threat: tuple[str, Fraction]) -> str:
    if threat == THREAT:
        return f"Dent and its static models on CIFAR-10, AutoAttack, Linf 8/255 ({table.name})"
    at = departures.threat_text(*threat)
    return f"Dent and its static models, {at}, not the paper's (in the layout of {table.name})"


def _slot(row: Record | PairedRow) -> tuple[str, int | None, str]:
    return row.mode, row.steps, row.model


def _fits(record: Record) -> bool:
    return departures.comparable(record, *THREAT)


def _distinct(records: Sequence[Record]) -> list[Record]:
    """Return the best record of each model, data set, attack, threat model and setting."""
    slots: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        attack = (
            record.attack,
            record.iterations,
            record.queries,
            record.targets,
            record.norm,
            record.eps,
        )
        slot = (
            *_slot(record),
            record.dataset,
            *attack,
            departures.settings_text(record),
            record.batching,
        )
        slots.setdefault(slot, []).append(record)
    return [chosen for group in slots.values() if (chosen := best(group)) is not None]


def _paired_rows(
    row: PairedRow | None,
    decimals: int,
    static: Record | None,
    dent: Record | None,
    threat: tuple[str, Fraction],
) -> list[list[object]]:
    """Return the rows of one mode and model: ours, interval, published and difference."""
    slot = row or dent
    assert slot is not None
    # A row without published numbers is marked at its name already.
    notes = departures.attacked_marks(dent, *threat) if dent and not row else ()
    stub = [f"{MODES[slot.mode]}, {slot.steps} steps", Cell(slot.model, notes)]
    ours = [
        natural_cell(static),
        natural_cell(dent),
        attacked_cell(static, threat),
        attacked_cell(dent, threat),
        attacked_cell(dent, threat, worst=True),
    ]
    rows: list[list[object]] = [[*stub, OURS, *ours]]
    run = any(isinstance(cell.value, Share) for cell in ours)
    if run:
        rows.append([*stub, INTERVAL, *map(interval_cell, ours)])
    if row is not None:
        values = (
            row.natural_static,
            row.natural_dent,
            row.adversarial_static,
            row.adversarial_dent,
        )
        rows.append([*stub, PUBLISHED, *(Percent(value, decimals) for value in values), None])
        if run:
            pairs = zip(ours, values, strict=False)
            rows.append([*stub, "difference", *(_minus(*pair, decimals) for pair in pairs), None])
    return rows


def _minus(cell: Cell, published: float, decimals: int) -> Cell:
    if not isinstance(cell.value, Share):
        return Cell(None)
    return Cell(Points(round(cell.value.percent - published, 6), decimals), cell.notes)
