"""Join the rows of one run: every result counts, and a later, weaker row hides none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dentbench.records.outcome import Record


def united(records: Sequence[Record]) -> list[Record]:
    """Return one record of each run key, at the place of its last row.

    It is the row that leaves the fewest images right, of equal ones the last of most protocols,
    with the protocols of all rows: under each the fewest images that a row has. A row that other
    code computed than the last one is no longer of this run, and of a run that stopped early and
    went on only the rows of most images count. Its worst case is of single rows;
    where the outcomes are stored, a record has the worst case per image anyway.
    """
    keys = pd.Series([record.key for record in records], dtype="object")
    if keys.is_unique:
        return list(records)
    places = keys.groupby(keys).indices
    last = keys[~keys.duplicated(keep="last")]
    present = (_of_present_code([records[at] for at in places[key]]) for key in last)
    return [_united(_of_most_images(rows)) for rows in present]


def _of_present_code(rows: Sequence[Record]) -> list[Record]:
    """Return the rows none of whose stages has another number of its code than in the last row."""
    if len(rows) == 1:
        return list(rows)
    numbers = [json.loads(row.stage_versions or "{}") for row in rows]
    present = numbers[-1]
    return [
        row
        for row, versions in zip(rows, numbers, strict=True)
        if bool(versions) == bool(present)
        and all(present.get(name, number) == number for name, number in versions.items())
    ]


def _of_most_images(rows: Sequence[Record]) -> list[Record]:
    """Return the rows that judged as many images as any: counts of fewer cannot be compared."""
    most = max(row.n for row in rows)
    return [row for row in rows if row.n == most]


def _united(rows: Sequence[Record]) -> Record:
    if len(rows) == 1:
        return rows[0]
    strongest = min(reversed(rows), key=lambda row: (row.robust_correct, -len(row.protocol_counts)))
    counts: dict[str, int] = {}
    skipped: dict[str, str] = {}
    for row in rows:
        skipped |= json.loads(row.skipped or "{}")
        for name, count in row.protocol_counts.items():
            counts[name] = min(count, counts.get(name, count))
    if counts == strongest.protocol_counts:
        return strongest
    skipped = {name: reason for name, reason in skipped.items() if name not in counts}
    return replace(
        strongest,
        protocol=" ".join(counts),
        by_protocol=json.dumps(counts),
        worst_protocol=min(counts, key=lambda name: counts[name]),
        skipped=json.dumps(skipped) if skipped else None,
    )
