"""Make each judgement of final points once, and keep it beside the outcomes.

The final points are kept until they are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dentbench.errors import StoreError
from dentbench.evaluation import cascade
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.fresh_judgement.judgement import Judgement
from dentbench.evaluation.fresh_judgement.pristine import Pristine, judge_anew
from dentbench.records.checkpoint import RunFolder
from dentbench.records.judged import NOTE, Judged, judged_in, same_points
from dentbench.records.outcome import NATURAL, BatchOutcome
from dentbench.spec.evaluation import EvalSpec


def load_or_judge(
    context: RunContext,
    pristine: Pristine,
    spec: EvalSpec,
    outcomes: Mapping[str, Sequence[BatchOutcome]],
    *,
    draws: int,
    keep_points: bool,
) -> Judgement:
    """Return the judgement of a defense's final points, made where no earlier run left it.

    Points that nothing else needs are dropped then, unless ``keep_points``. The judgement of a run
    that stopped after its first batches is kept apart: all batches are judged together once they
    are there, as if it had not stopped.
    """
    folder = context.folder(spec)
    note = note_of(spec, outcomes)
    with folder.exclusive():
        judgements = _all_stored(folder, note, outcomes, draws)
        missing = [stage for stage in outcomes if stage not in judgements]
        if missing:
            made = judge_anew(context, pristine, spec, missing, len(outcomes[NATURAL]), draws)
            for stage in missing:
                if stage in made.stages:
                    _require_stored(spec, stage, outcomes[stage], made.stages[stage])
                needed = keep_points or stage == NATURAL or cascade.keeps_points(spec, stage)
                if note == NOTE and not needed:
                    # Before the note: a run killed in between redoes these batches, and one killed
                    # after it would keep points, and diagnose them, that no other run has.
                    for outcome in outcomes[stage]:
                        folder.drop_points(outcome)
                batches = [asdict(batch) for batch in made.stages.get(stage, ())]
                folder.save_note(f"{stage}/{note}", {"batches": batches, "reason": made.reason})
            judgements = _all_stored(folder, note, outcomes, draws)
    reasons = [judgement.reason for judgement in judgements.values() if judgement.reason]
    stages = {
        stage: judgement.stages[stage]
        for stage, judgement in judgements.items()
        if judgement.stages
    }
    whole = len(stages) == len(outcomes)
    return Judgement(stages if whole else {}, reasons[0] if reasons else "")


def note_of(spec: EvalSpec, outcomes: Mapping[str, Sequence[BatchOutcome]]) -> str:
    """Return the name of the note of a judgement: its own for all batches and for fewer."""
    batches = len(outcomes[NATURAL])
    return NOTE if batches == len(spec.batches.ranges(spec.data.count)) else f"{NOTE}-of-{batches}"


def is_stale(folder: RunFolder, stage: str, outcomes: Sequence[BatchOutcome], draws: int) -> bool:
    """Return whether a stage has a judgement that is not of these outcomes."""
    return is_judged(folder, stage) and _stored(folder, stage, NOTE, outcomes, draws) is None


def is_judged(folder: RunFolder, stage: str) -> bool:
    """Return whether a stage's points were judged anew, so that they need not be kept for that."""
    return folder.has(f"{stage}/{NOTE}.json")


def _all_stored(
    folder: RunFolder, note: str, outcomes: Mapping[str, Sequence[BatchOutcome]], draws: int
) -> dict[str, Judgement]:
    """Return, by stage, the judgements on disk that are of these outcomes."""
    stored = {stage: _stored(folder, stage, note, outcomes[stage], draws) for stage in outcomes}
    return {stage: judgement for stage, judgement in stored.items() if judgement is not None}


def _stored(
    folder: RunFolder, stage: str, name: str, outcomes: Sequence[BatchOutcome], draws: int
) -> Judgement | None:
    like: dict[str, Any] = {"batches": [], "reason": ""}
    paths = (f"{stage}/{name}", f"{stage}/{NOTE}")
    note = next(filter(None, (folder.load_note(path, like) for path in paths)), None)
    if note is None:
        return None
    batches = judged_in(note)[: len(outcomes)]
    if not batches:
        return Judgement({}, note["reason"])
    fits = all(len(batch.right) == draws for batch in batches)
    if not (fits and same_points(stage, batches, outcomes)):
        return None
    return Judgement({stage: batches}, note["reason"])


def _require_stored(
    spec: EvalSpec, stage: str, outcomes: Sequence[BatchOutcome], judged: Sequence[Judged]
) -> None:
    for outcome, new in zip(outcomes, judged, strict=True):
        if stage != NATURAL and outcome.points_sha256 not in ("", new.sha256):
            raise StoreError(
                f"the points of {spec.label} {stage}, batch {outcome.index + 1}, on disk are not "
                "those that were attacked with; run again with --fresh"
            )
