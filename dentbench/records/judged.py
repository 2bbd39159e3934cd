"""The judgement of a batch's final points by a new process, and the note that keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dentbench.records.outcome import NATURAL, BatchOutcome

VERSION: Final = 1
"""The version of the code that judges anew, raised when its answers change."""

NOTE: Final = f"fresh-{VERSION}"
"""The name of the note, in the folder of a stage, that keeps the judgement of its points."""

CLOSE: Final = 1e-3
"""An answer is close when its margin is less than this share of the logits' range.

The last bits of a computation decide it, and no memory."""


@dataclass(frozen=True)
class Judged:
    """The answers of a new instance in a new process to one batch of final points.

    ``sha256``: of the points. ``right`` (draws x B flags): draw by draw. ``close`` (B flags):
    answers of the first draw that rounding may change. ``spread``: how much the logits of an image
    differ between draws at most, as a share of their range.
    """

    sha256: str
    right: tuple[tuple[bool, ...], ...]
    close: tuple[bool, ...]
    spread: float


def judged_in(note: Mapping[str, Any]) -> list[Judged]:
    """Return the judgements of a note, by batch; empty where no new process could be asked."""
    return [
        Judged(
            sha256=batch["sha256"],
            right=tuple(map(tuple, batch["right"])),
            close=tuple(batch["close"]),
            spread=batch["spread"],
        )
        for batch in note["batches"]
    ]


def is_random(answers: Sequence[Judged]) -> bool:
    """Return whether a defense answers by chance, from several answers to the same images."""
    return any(judged.spread > CLOSE for judged in answers)


def same_points(stage: str, judged: Sequence[Judged], outcomes: Sequence[BatchOutcome]) -> bool:
    """Return whether a judgement is of the final points of these outcomes.

    Outcomes of the static model do not say which points are theirs.
    """
    if len(judged) != len(outcomes):
        return False
    pairs = zip(judged, outcomes, strict=True)
    return stage == NATURAL or all(
        outcome.points_sha256 in ("", batch.sha256) for batch, outcome in pairs
    )
