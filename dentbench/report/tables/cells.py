"""Pick a record for a place in a table, and write a record's numbers as cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from dentbench.records.outcome import Record
from dentbench.report import departures
from dentbench.report.numbers import Share
from dentbench.report.table import NOT_RUN, Cell, Column

NOT_ROBUSTBENCH: Final = (
    "A dent number is not a RobustBench number: RobustBench does not list defenses that "
    "optimize at test time."
)
WORST: Final = (
    "Worst: images right without an attack and under every protocol that was run; the published "
    "protocol alone overstates a defense that adapts."
)
WORST_BATCH: Final = (
    "Worst per batch: each batch at the points of the protocol that is worst for it as a whole, "
    "as one attacker of the batch would choose; the worst case per image lets every image have an "
    "attacker of its own, who gives it the mates that are worst for it."
)
NEWLY_BROKEN: Final = "newly broken"
"""The column of the images that a protocol broke and none before it."""
NEWLY: Final = (
    "Newly broken: images that a protocol broke and none above it did; accuracies of protocols "
    "that start from earlier points include the images that those broke."
)
ACCURACY: Final = "Accuracy in percent (images right/images) with 95% Wilson intervals"
"""The beginning of captions that name the numbers."""
IMAGES: Final = "CIFAR-10, 10,000 test images unless marked."
INTERVALS: Final = "Intervals: Wilson, 95%. Differences in percentage points."
NOTES: Final = (WORST, INTERVALS, NOT_ROBUSTBENCH)
"""The notes of every table of static and defended accuracies."""
MODES: Final = departures.MODES

ROW: Final = Column("row")
"""The column that names a row beside published numbers: one of the following."""
OURS: Final = "ours"
INTERVAL: Final = "95% interval"
INTERVAL_COLUMN: Final = Column(INTERVAL, "right")
PUBLISHED: Final = "published"


def published_notes(source: str) -> tuple[str, ...]:
    """Return the notes of a table beside published numbers from ``source``."""
    return (f"Published: {source}.", *NOTES)


def best(records: Sequence[Record]) -> Record | None:
    """Return the record on most images, then of most protocols, then the latest."""
    ranked = enumerate(records)
    rank = max(
        ((record.n, len(record.protocol.split()), place) for place, record in ranked), default=None
    )
    return None if rank is None else records[rank[2]]


def newly_broken(record: Record) -> dict[str, int]:
    """Return how many images each protocol broke first; empty for a record without these counts."""
    broken: dict[str, int] = json.loads(record.newly_broken or "{}")
    return broken if broken.keys() >= record.protocol_counts.keys() else {}


def natural_cell(record: Record | None, *, slot: bool = False) -> Cell:
    """Return the share right without an attack, or that it was not run.

    ``slot``: the row names Delta and the blur, so no footnote does.
    """
    if record is None:
        return Cell(NOT_RUN)
    return Cell(
        Share(record.natural_correct, record.n), departures.natural_marks(record, slot=slot)
    )


def attacked_cell(
    record: Record | None,
    threat: tuple[str, Fraction],
    worst: bool = False,
    *,
    slot: bool = False,
) -> Cell:
    """Return the share right under the published protocol, or in the worst case.

    A static model's worst case stands for its published protocol. A defense that only its
    published protocol was run on has no worst case yet. ``slot`` as of :func:`natural_cell`.
    """
    counts = {} if record is None else record.protocol_counts
    if record is None or not counts:
        return Cell(NOT_RUN)
    own = departures.published_protocol(record)
    if worst and set(counts) == {own}:
        return Cell(NOT_RUN)
    count: int | None = record.robust_correct
    if not worst:
        count = counts.get(own, count if record.mode == "static" else None)
    if count is None:
        return Cell(NOT_RUN)
    return Cell(Share(count, record.n), departures.attacked_marks(record, *threat, slot=slot))


def interval_cell(cell: Cell) -> Cell:
    """Return the interval of a share, with its footnotes; empty for anything else."""
    value = cell.value
    return Cell(value.interval, cell.notes) if isinstance(value, Share) else Cell(None)
