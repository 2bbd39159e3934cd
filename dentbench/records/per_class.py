"""Count a run's images by class and by the attack that broke them, for reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dentbench.errors import StoreError
from dentbench.records.aggregate import broken_first, worst_case
from dentbench.records.checkpoint import RunFolder, read_note
from dentbench.records.outcome import NATURAL, BatchOutcome

NOTE: Final = "breakdown"
"""The name of the note that keeps it."""

SURVIVES: Final = "survives"
"""In place of the attack, for an image that nothing broke."""

Counts = tuple[int, ...]
"""Images of each class, by number of the class."""


@dataclass(frozen=True)
class Breakdown:
    """A run's images by class.

    ``images``: how many there are. ``right``: how many are right under each stage, those that were
    wrong naturally counting as wrong, and under all of them ("worst"). ``broken``: for each
    protocol, how many each attack broke. ``first``: how many were broken first by each stage, in
    the order in which they were run, "natural" being wrong without an attack, and how many
    survive; each image counts once.
    """

    images: Counts
    right: Mapping[str, Counts]
    broken: Mapping[str, Mapping[str, Counts]]
    first: Mapping[str, Counts]


def break_down(
    stages: Mapping[str, Sequence[BatchOutcome]], labels: Sequence[int], classes: int
) -> Breakdown:
    """Return the breakdown of outcomes by stage, "natural" among them, each in batch order.

    ``labels``: of every image, in order; from 0 to ``classes`` - 1.
    """
    flags = {
        name: [flag for outcome in outcomes for flag in outcome.correct]
        for name, outcomes in stages.items()
    }
    natural = flags[NATURAL]
    worst = worst_case(stages)
    first = [name or SURVIVES for name in broken_first(stages)]
    broken = {}
    for name, outcomes in stages.items():
        by = [cause for outcome in outcomes for cause in outcome.broken_by]
        names = sorted({*by} - {"", NATURAL})
        if name != NATURAL:
            broken[name] = {
                cause: _count([b == cause for b in by], labels, classes) for cause in names
            }
    return Breakdown(
        images=_count([True] * len(labels), labels, classes),
        right={
            **{
                name: _count([a and b for a, b in zip(natural, own, strict=True)], labels, classes)
                for name, own in flags.items()
            },
            "worst": _count(worst, labels, classes),
        },
        broken=broken,
        first={
            name: _count([first_cause == name for first_cause in first], labels, classes)
            for name in (*flags, SURVIVES)
        },
    )


def _count(flags: Sequence[object], labels: Sequence[int], classes: int) -> Counts:
    counts = [0] * classes
    for flag, label in zip(flags, labels, strict=True):
        counts[label] += bool(flag)
    return tuple(counts)


def save(folder: RunFolder, breakdown: Breakdown) -> bool:
    """Write a breakdown beside a run's outcomes; return False where it is there already."""
    value = json.loads(json.dumps(asdict(breakdown)))
    if folder.load_note(NOTE) == value:
        return False
    folder.save_note(NOTE, value)
    return True


def load(results: Path, key: str) -> Breakdown | None:
    """Return the breakdown kept of a run, or None when there is none.

    Raises :class:`~dentbench.errors.StoreError` for a file that holds no breakdown.
    """
    note = read_note(results, key, NOTE)
    if note is None:
        return None
    try:
        return Breakdown(
            images=tuple(note["images"]),
            right=_counts(note["right"]),
            broken={name: _counts(by) for name, by in note["broken"].items()},
            first=_counts(note["first"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"the breakdown of run {key} in {results} is not one of dentbench's "
            f"({json.dumps(str(error))}); run evaluate again, and it is made anew"
        ) from error


def _counts(note: Mapping[str, Sequence[int]]) -> dict[str, Counts]:
    return {name: tuple(map(int, counts)) for name, counts in note.items()}
