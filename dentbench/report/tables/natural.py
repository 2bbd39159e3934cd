"""Natural accuracy of runs without an attack: corruption by corruption, defenses side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dentbench.defenses.naming import built_in
from dentbench.records.outcome import Record
from dentbench.report import departures
from dentbench.report.numbers import Percent, Share
from dentbench.report.table import Column, Table
from dentbench.spec.evaluation import NO_ATTACK
from dentbench.stats import wilson
from dentbench.zoo.images.corruptions import CORRUPTIONS, parse_title

STATIC = "static model"


def natural(records: Sequence[Record], models: Collection[str] | None = None) -> Table:
    """Return one row per data set, or corruption and severity, and one column per defense.

    Of equal runs the last counts. The corruptions of one severity, if any, are followed by their
    mean, of the columns that have them all. ``models``: only these.
    """
    chosen = [record for record in records if record.attack == NO_ATTACK]
    chosen = [record for record in chosen if models is None or record.model in models]
    titles = list(dict.fromkeys([STATIC, *map(_title, chosen)]))
    groups: dict[tuple[object, ...], dict[str, dict[str, Share]]] = {}
    for record in chosen:
        stub, part = _place(record)
        cells = groups.setdefault(stub, {}).setdefault(part, {})
        cells[_title(record)] = Share(record.natural_correct, record.n)
    rows: list[list[object]] = []
    for stub, parts in groups.items():
        for part in sorted(parts, key=_order):
            rows.append([*stub, part, *(parts[part].get(title) for title in titles)])
        if len(parts) > 1:
            means = [_mean([cells.get(title) for cells in parts.values()]) for title in titles]
            rows.append([*stub, f"mean of {len(parts)}", *means])
    corrupted = any(part for parts in groups.values() for part in parts)
    if not corrupted:
        rows = [[*row[:4], *row[5:]] for row in rows]
    columns = (
        Column("model"),
        Column("data set"),
        Column("severity", "right"),
        Column("images", "right"),
        *([Column("corruption")] if corrupted else []),
        *(Column(title, "right") for title in titles),
    )
    return Table.of(
        "Natural accuracy",
        columns,
        rows,
        caption="Accuracy without an attack in percent (images right/images)."
        + " The mean is over the corruptions of one severity." * corrupted,
        notes=_intervals([cells for parts in groups.values() for cells in parts.values()]),
        stub=4,
    )


def _intervals(rows: Sequence[Mapping[str, Share]]) -> tuple[str, ...]:
    """Return how far the intervals of these accuracies reach: one number for all of them."""
    reach = 0.0
    for share in (share for cells in rows for share in cells.values() if share.total):
        low, high = (100 * end for end in wilson(share.count, share.total))
        reach = max(reach, share.percent - low, high - share.percent)
    if not reach:
        return ()
    return (f"95% Wilson intervals reach {reach:.1f} points up or down at most.",)


def _place(record: Record) -> tuple[tuple[object, ...], str]:
    """Return the group of a record, and its corruption within that group."""
    parts = parse_title(record.dataset)
    name, corruption, severity = parts or (record.dataset, "", None)
    return (record.model, name, severity, record.n), corruption


def _title(record: Record) -> str:
    """Return a column's title: the defense, with its settings that are not the default."""
    if record.mode == "static":
        return STATIC
    odd = departures.settings_text(record)
    if record.mode == departures.OTHER and not record.defense_sha256:
        default = built_in(record.defense).settings_json
        odd = "" if record.defense_settings == default else odd
    return departures.defense_title(record) + (f" ({odd})" if odd else "")


def _order(corruption: str) -> int:
    """Return a corruption's place in the catalogue."""
    return [*CORRUPTIONS].index(corruption) if corruption else -1


def _mean(shares: Sequence[Share | None]) -> Percent | None:
    """Return the mean of the percentages, or None where any is missing."""
    values = [share.percent for share in shares if share is not None]
    return Percent(sum(values) / len(values)) if values and len(values) == len(shares) else None
