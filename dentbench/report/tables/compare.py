"""Two results files beside each other: which cells changed by more than chance explains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from dentbench.records.frame import by_record
from dentbench.records.outcome import NATURAL, Record, eps_of
from dentbench.report import departures
from dentbench.report.numbers import Points, Share, signed
from dentbench.report.pairing import CHOSEN
from dentbench.report.table import Column, Table
from dentbench.report.tables.cells import INTERVAL_COLUMN
from dentbench.stats import difference

SHOWN = 20
"""How many runs that only one file has are named, the newest."""

_HASHES = {"model_sha256", "model_code", "data_sha256"}
IDENTITY = CHOSEN - {"protocol", "seed", "first", "count"} - _HASHES
"""The columns that tell runs apart; in the others two may differ and be set beside each other."""


def compare(before: Sequence[Record], after: Sequence[Record], names: tuple[Path, Path]) -> Table:
    """Return the cells of the runs in both files whose difference is not explained by chance.

    A cell is the accuracy without an attack, under one protocol, or in the worst case; it changed
    when the 95% interval of the difference of the two shares (Newcombe 1998) does not hold 0. The
    images count as two samples, for the files do not say which ones were right.
    """
    old, new = _by_run(before), _by_run(after)
    both = old.merge(new, on=[name for name in old if name != "place"], suffixes=("", "_after"))
    both = both.sort_values("place")
    rows: list[list[object]] = []
    cells = 0
    for first, second in zip(both["place"], both["place_after"], strict=True):
        for name, first_share, second_share in _cells(before[first], after[second]):
            cells += 1
            low, high = difference(
                (first_share.count, first_share.total), (second_share.count, second_share.total)
            )
            if low <= 0 <= high:
                continue
            points = Points(second_share.percent - first_share.percent)
            interval = f"{signed(100 * low)} to {signed(100 * high)}"
            rows.append([*_stub(after[second]), name, first_share, second_share, points, interval])
    only_old = old[~old["place"].isin(both["place"])]["place"]
    only_new = new[~new["place"].isin(both["place_after"])]["place"]
    notes = [
        "Interval of the difference: Newcombe 1998, 95%; the images count as two samples.",
        *_alone(names[0], [before[place] for place in only_old]),
        *_alone(names[1], [after[place] for place in only_new]),
    ]
    caption = f"{len(rows)} of {cells} cells of {len(both)} runs changed beyond the interval."
    columns = (
        *(Column(name) for name in ("model", "defense", "cell")),
        Column("before", "right"),
        Column("after", "right"),
        Column("difference", "right"),
        INTERVAL_COLUMN,
    )
    title = f"{names[0]} and {names[1]}"
    return Table.of(title, columns, rows, caption=caption, notes=tuple(notes), stub=2)


def _by_run(records: Sequence[Record]) -> pd.DataFrame:
    """Return the columns that tell runs apart, of the last record of each, and its ``place``."""
    frame = by_record(records, IDENTITY).drop_duplicates(keep="last")
    return frame.assign(place=frame.index)


def _cells(old: Record, new: Record) -> Iterator[tuple[str, Share, Share]]:
    """Yield the name of each cell that both have, and both shares."""
    yield NATURAL, Share(old.natural_correct, old.n), Share(new.natural_correct, new.n)
    counts = new.protocol_counts
    for name, count in old.protocol_counts.items():
        if name in counts:
            yield name, Share(count, old.n), Share(counts[name], new.n)
    if counts.keys() == old.protocol_counts.keys() and len(counts) > 1:
        yield "worst case", Share(old.robust_correct, old.n), Share(new.robust_correct, new.n)


def _stub(record: Record) -> list[str]:
    threat = departures.threat_text(record.norm, eps_of(record))
    model = f"{record.model}, {record.dataset}, {threat}, {record.attack}"
    if record.mode == "static":
        return [model, "static model"]
    title, settings = departures.defense_title(record), departures.settings_text(record)
    return [model, f"{title}, {settings}" if settings else title]


def _alone(name: Path, records: Sequence[Record]) -> Iterator[str]:
    if records:
        newest = records[-SHOWN:]
        more = f"{len(records) - SHOWN} more; " if len(records) > SHOWN else ""
        runs = "; ".join(", ".join(_stub(record)) for record in newest)
        yield f"Only in {name}: {more}{runs}."
