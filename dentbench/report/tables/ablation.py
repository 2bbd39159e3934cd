"""Ablations: the paper's Table 2 with ours above the published rows, and grids of settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction
from typing import Final, TypeAlias

from dentbench.paper import ABLATION_THREATS, TABLE2, TABLE2_SOURCE, AblationRow
from dentbench.records.outcome import Record
from dentbench.report import departures
from dentbench.report.numbers import Percent, Ratio
from dentbench.report.table import NOT_RUN, Cell, Column, Table
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

YES: Final = "\u2713"
NO: Final = "\u00d7"
"""The marks of the paper's Table 2 where dent adapts the model, and where it does not."""

Threat: TypeAlias = tuple[str, Fraction]
"""A norm and an eps."""

CAPTION: Final = (
    f"{ACCURACY}; time relative to the static model. Under attack: the published protocol, then "
    "the worst case over all that were run."
)


def _columns(threats: Sequence[Threat], *more: Column) -> tuple[Column, ...]:
    return (
        *(Column("Delta"), Column("Sigma"), Column("step", "right"), *more, ROW),
        *(Column("time", "right"), Column("natural", "right")),
        *(Column(departures.threat_text(*threat), "right") for threat in threats),
    )


def table2(
    records: Sequence[Record],
    models: Collection[str] | None = None,
    *,
    threats: Sequence[Threat] = ABLATION_THREATS,
    run_only: bool = False,
) -> Table:
    """Return the paper's Table 2, the published row under ours for every model that was run.

    Ours are static and batch-wise records at ``threats``, no others; published accuracies stand
    under the paper's threat models alone. ``run_only``: leave out rows that were not run. The
    paper's model is not established, so no difference is taken.
    """
    # Natural accuracy has a table of its own.
    chosen = [
        record
        for record in records
        if record.protocol and (models is None or record.model in models)
    ]
    ablated = _by_model(chosen, threats)
    rows: list[list[object]] = []
    for row in TABLE2:
        stub = [YES if row.delta else NO, row.sigma, row.steps]
        ours: list[list[object]] = []
        for (model, _), columns in ablated.items():
            picked = [_pick(group, row) for group in columns]
            if any(picked):
                ours += [[*stub, *line] for line in _lines(model, picked, threats)]
        if ours or not run_only:
            rows += ours or [[*stub, OURS, *[NOT_RUN] * (2 + len(threats))]]
            rows.append([*stub, *_published(row, threats)])
    papers = tuple(threats) == ABLATION_THREATS
    where = "paper, Table 2" if papers else "in the layout of the paper's Table 2"
    return Table.of(
        f"Dent's model (Delta) and input (Sigma) adaptation of a nominal model ({where})",
        _columns(threats),
        rows,
        caption=f"{CAPTION} {IMAGES}" if papers else CAPTION,
        notes=published_notes(f"{TABLE2_SOURCE}; ours are other models, so no difference is taken"),
        stub=3,
    )


def grid(records: Sequence[Record], threats: Sequence[Threat]) -> Table:
    """Return one model's ablation with every setting that was run, in order of appearance."""
    several = len({record.mode for record in records if record.mode != "static"}) > 1
    rows: list[list[object]] = []
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_defense(record), []).append(record)
    for group in groups.values():
        delta, sigma, steps = slot_of(group[0])
        mode = MODES[group[0].mode] if several and group[0].mode != "static" else ""
        text = ", ".join(filter(None, (mode, departures.slot_text(group[0]))))
        stub = [YES if delta else NO, sigma, steps, text]
        chosen = [best([r for r in group if _is_threat(r, threat)]) for threat in threats]
        rows += [[*stub, *line] for line in _lines(OURS, chosen, threats, marked=False)]
    first = records[0]
    return Table.of(
        f"Ablation of dent on {first.model}, {first.dataset}, {first.n:,} images, "
        f"{first.attack_label}",
        _columns(threats, Column("settings")),
        rows,
        caption=CAPTION,
        notes=NOTES,
        stub=4,
    )


def slot_of(record: Record) -> tuple[bool, str, int]:
    """Return a record's Delta, Sigma and steps, as the rows of Table 2 have them."""
    if record.mode == "static":
        return False, "none", 0
    steps = record.steps or 0
    return record.delta != "none" and steps > 0, record.blur or "none", steps


def _by_model(
    records: Iterable[Record], threats: Sequence[Threat]
) -> dict[tuple[str, str], list[list[Record]]]:
    """Return, by model and data set, the records of each column, all at the column's eps."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.mode in ("static", "batch"):
            groups.setdefault((record.model, record.dataset), []).append(record)
    ablations = {}
    for name, group in groups.items():
        columns = [[member for member in group if _is_threat(member, threat)] for threat in threats]
        if any(columns):
            ablations[name] = columns
    return ablations


def _is_threat(record: Record, threat: Threat) -> bool:
    return not departures.threat_departures(record, *threat)


def _defense(record: Record) -> tuple[object, ...]:
    return (record.mode, *slot_of(record), departures.slot_text(record), record.batching)


def _pick(records: Sequence[Record], row: AblationRow) -> Record | None:
    """Return the record of a row: with the default settings if there, else the best."""
    fitting = [record for record in records if slot_of(record) == (row.delta, row.sigma, row.steps)]
    plain = [record for record in fitting if not departures.slot_text(record)]
    return best(plain or fitting)


def _lines(
    name: str, chosen: Sequence[Record | None], threats: Sequence[Threat], *, marked: bool = True
) -> list[list[object]]:
    """Return ours: accuracies, their intervals and, where other protocols were run, worst cases."""
    natural = best([record for record in chosen if record is not None])

    def cells(worst: bool) -> list[Cell]:
        pairs = zip(chosen, threats, strict=True)
        kept = [attacked_cell(record, threat, worst, slot=True) for record, threat in pairs]
        return kept if marked else [Cell(cell.value) for cell in kept]

    plain = natural_cell(natural, slot=True)
    ours = [plain if marked else Cell(plain.value), *cells(worst=False)]
    lines: list[list[object]] = [
        [name, _time(chosen), *ours],
        [INTERVAL, None, *map(interval_cell, ours)],
    ]
    worst = cells(worst=True)
    if any(cell.value != NOT_RUN for cell in worst) and any(
        record and _others(record) for record in chosen
    ):
        lines.append(["worst case", None, None, *worst])
    return lines


def _others(record: Record) -> bool:
    return set(record.protocol_counts) != {departures.published_protocol(record)}


def _time(chosen: Iterable[Record | None]) -> object:
    there = [record for record in chosen if record is not None]
    if any(record.mode == "static" for record in there):
        return Ratio(1.0)
    return next((Ratio(record.time_ratio) for record in there if record.time_ratio), "not measured")


def _published(row: AblationRow, threats: Sequence[Threat]) -> list[object]:
    """Return the published row; under another eps than the paper's it has no accuracy."""
    numbers = dict(zip(("Linf", "L2"), (row.linf, row.l2), strict=True))
    cells: list[object] = []
    for threat in threats:
        cells.append(Percent(numbers[threat[0]]) if threat in ABLATION_THREATS else None)
    name = Cell(PUBLISHED, ("another model, on the CIFAR-10 test set",))
    return [name, Ratio(row.time), Percent(row.natural), *cells]
