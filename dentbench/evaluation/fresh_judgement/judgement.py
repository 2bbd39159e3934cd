"""What a defense that nobody asked anything says of a run's final points, and what follows.

Judged once, by :mod:`dentbench.evaluation.fresh_judgement.judge`, and kept beside the outcomes; the
are kept until then.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from dentbench.attacks import checks as names
from dentbench.attacks.checks import Check
from dentbench.compute.bn_relu_fusion import has_hooks
from dentbench.errors import StoreError, WorkerError, first_line
from dentbench.evaluation import cascade
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.fresh_judgement.judge import Request, judged
from dentbench.identity.user_code import is_library
from dentbench.records.checkpoint import RunFolder
from dentbench.records.judged import NOTE, Judged, is_random, judged_in, same_points
from dentbench.records.outcome import NATURAL, BatchOutcome
from dentbench.spec.evaluation import DefenseSpec, EvalSpec


class Pristine:
    """A network and defenses as they are before a run has asked them anything.

    They are kept as bytes, which new processes are made of; where they cannot be, ``reason`` says
    why, and they are kept as a copy, if that can be made.
    """

    def __init__(self, network: nn.Module, given: Mapping[DefenseSpec, Any] | None) -> None:
        self.reason = ""
        self.data: bytes | None = None
        self.copied: tuple[nn.Module, Any] | None = None
        try:
            self.data = cloudpickle.dumps((network, given))
        except Exception as error:  # what is raised depends on what they hold
            self.reason = f"it cannot be sent to another process ({first_line(error)})"
            try:
                self.copied = copy.deepcopy((network, given))
            except Exception as again:
                self.reason += f" and cannot be copied ({first_line(again)})"


@dataclass(frozen=True)
class Judgement:
    """What was said anew of every stage, by batch; ``reason``: why not by new processes, or ""."""

    stages: Mapping[str, Sequence[Judged]]
    reason: str = ""

    @property
    def random(self) -> bool:
        """Whether an instance that is asked for the first time answers by chance."""
        return is_random(self.stages.get(NATURAL, ()))

    def draws(self, stage: str) -> tuple[tuple[bool, ...], ...]:
        """Return, draw by draw, whether each image is right under a stage."""
        batches = [one.right for one in self.stages[stage]]
        return tuple(
            tuple(flag for flags in rows for flag in flags) for rows in zip(*batches, strict=True)
        )

    def applied(
        self, outcomes: Mapping[str, Sequence[BatchOutcome]]
    ) -> dict[str, Sequence[BatchOutcome]]:
        """Return outcomes in which an image is right only if it is right anew too.

        Unattacked images, and answers by chance, are left as they were.
        """
        if self.random or not self.stages:
            return dict(outcomes)
        return {
            stage: batches if stage == NATURAL else [*map(_and, batches, self.stages[stage])]
            for stage, batches in outcomes.items()
        }

    def check(self, outcomes: Mapping[str, Sequence[BatchOutcome]]) -> Check:
        """Return whether the answers are those that were given where the attack ran."""
        pairs = [
            pair
            for stage, batches in outcomes.items()
            for pair in zip(batches, self.stages.get(stage, ()), strict=False)
        ]
        total = sum(len(outcome.correct) for outcome, _ in pairs)
        name = names.FRESH_PROCESS
        if self.random:
            return _check_of_chances(name, pairs, total)
        lost = sum(_differing(outcome, new, True) for outcome, new in pairs)
        won = sum(_differing(outcome, new, False) for outcome, new in pairs)
        if self.reason and not lost:
            text = f"the final points were not judged again in a new process: {self.reason}"
            return Check(name, None, None, text)
        if not lost + won:
            text = f"a new process gives all {total} final and natural images the same answers"
            return Check(name, True, 0.0, text)
        text = (
            f"of {total} final and natural images {lost} are right only, and {won} wrong only, in "
            "the process that was attacked: the answers depend on what was asked before"
        )
        return Check(name, False, lost / total, text)


def _and(outcome: BatchOutcome, new: Judged) -> BatchOutcome:
    right = new.right[0]
    return replace(
        outcome,
        correct=tuple(map(bool.__and__, outcome.correct, right)),
        judged=tuple(map(bool.__and__, outcome.judged or outcome.correct, right)),
    )


def _differing(outcome: BatchOutcome, new: Judged, before: bool) -> int:
    """Return how many images were ``before`` and are the opposite now, close answers aside."""
    old = outcome.judged or outcome.correct
    rows = zip(old, new.right[0], new.close, strict=True)
    return sum(was == before and now != before and not close for was, now, close in rows)


def _check_of_chances(name: str, pairs: Sequence[tuple[BatchOutcome, Judged]], total: int) -> Check:
    """Compare how many were right where the attack ran with how many are by chance.

    It fails beyond four standard deviations of a sum of independent answers.
    """
    right = sum(sum(outcome.judged or outcome.correct) for outcome, _ in pairs)
    shares = [sum(flags) / len(flags) for _, new in pairs for flags in zip(*new.right, strict=True)]
    excess = right - math.fsum(shares)
    # A share of N draws may be 0 or 1 by chance, hence Laplace's two more.
    draws = len(pairs[0][1].right)
    smooth = [(share * draws + 1) / (draws + 2) for share in shares]
    deviation = math.sqrt(math.fsum(share * (1 - share) for share in smooth) * (1 + 1 / draws))
    passed = abs(excess) <= 4 * deviation
    text = (
        f"{right} of {total} final and natural images were right where the attack ran, "
        f"{math.fsum(shares):.1f} are on average in new processes"
    )
    more = "" if passed else ": the answers depend on what was asked before"
    return Check(name, passed, excess / total if total else 0.0, text + more)


def judgement(
    context: RunContext,
    pristine: Pristine,
    spec: EvalSpec,
    outcomes: Mapping[str, Sequence[BatchOutcome]],
    *,
    draws: int,
    keep_points: bool,
) -> Judgement:
    """Return the judgement of a defense's final points, made where no earlier run left it.

    Points that nothing else needs are not kept any longer, unless ``keep_points``. What was judged
    of the first batches alone, as far as a run got that stopped, is kept apart: all of them are
    judged together once they are there, as if it had not stopped.
    """
    folder = context.folder(spec)
    note = note_of(spec, outcomes)
    with folder.exclusive():
        known = {stage: _known(folder, stage, note, outcomes[stage], draws) for stage in outcomes}
        missing = [stage for stage, one in known.items() if one is None]
        if missing:
            made = _made(context, pristine, spec, missing, len(outcomes[NATURAL]), draws)
            for stage in missing:
                if stage in made.stages:
                    _require_stored(spec, stage, outcomes[stage], made.stages[stage])
                batches = [asdict(one) for one in made.stages.get(stage, ())]
                folder.save_note(f"{stage}/{note}", {"batches": batches, "reason": made.reason})
                if (
                    note == NOTE
                    and stage != NATURAL
                    and not (keep_points or cascade.keeps_points(spec, stage))
                ):
                    for outcome in outcomes[stage]:
                        folder.drop_points(outcome)
            known = {
                stage: _known(folder, stage, note, outcomes[stage], draws) for stage in outcomes
            }
    found = {stage: one for stage, one in known.items() if one is not None}
    reasons = [one.reason for one in found.values() if one.reason]
    stages = {stage: one.stages[stage] for stage, one in found.items() if one.stages}
    whole = len(stages) == len(outcomes)
    return Judgement(stages if whole else {}, reasons[0] if reasons else "")


def note_of(spec: EvalSpec, outcomes: Mapping[str, Sequence[BatchOutcome]]) -> str:
    """Return the name of the note of a judgement: its own for all batches and for fewer."""
    batches = len(outcomes[NATURAL])
    return NOTE if batches == len(spec.batches.ranges(spec.data.count)) else f"{NOTE}-of-{batches}"


def is_stale(folder: RunFolder, stage: str, outcomes: Sequence[BatchOutcome], draws: int) -> bool:
    """Return whether a stage has a judgement that is not of these outcomes."""
    return is_judged(folder, stage) and _known(folder, stage, NOTE, outcomes, draws) is None


def is_judged(folder: RunFolder, stage: str) -> bool:
    """Return whether a stage's points were judged anew, so that they need not be kept for that."""
    return folder.has(f"{stage}/{NOTE}.json")


def _known(
    folder: RunFolder, stage: str, name: str, outcomes: Sequence[BatchOutcome], draws: int
) -> Judgement | None:
    note = folder.load_note(f"{stage}/{name}") or folder.load_note(f"{stage}/{NOTE}")
    if note is None:
        return None
    batches = judged_in(note)[: len(outcomes)]
    if not batches:
        return Judgement({}, note["reason"])
    fits = all(len(one.right) == draws for one in batches)
    if not (fits and same_points(stage, batches, outcomes)):
        return None
    return Judgement({stage: batches}, note["reason"])


def _require_stored(
    spec: EvalSpec, stage: str, outcomes: Sequence[BatchOutcome], judged: Sequence[Judged]
) -> None:
    for outcome, one in zip(outcomes, judged, strict=True):
        if stage != NATURAL and outcome.points_sha256 != one.sha256:
            raise StoreError(
                f"the points of {spec.label} {stage}, batch {outcome.index + 1}, on disk are not "
                "those that were found; run again with --fresh"
            )


def _made(
    context: RunContext,
    pristine: Pristine,
    spec: EvalSpec,
    stages: Sequence[str],
    batches: int,
    draws: int,
) -> Judgement:
    """Ask new processes, or else a copy in this one."""
    worker = context.worker
    request = Request(
        pristine=pristine.data or b"",
        images=context.subject.images,
        labels=context.subject.labels,
        engine=worker.blueprint[1],
        device=str(worker.device),
        threads=torch.get_num_threads(),
        results=context.options.results.absolute(),
        spec=spec,
        stages=tuple(stages),
        batches=batches,
        draws=draws,
        at_a_time=worker.micro_batcher.size(spec),
    )
    reason, made = pristine.reason, pristine.copied
    if pristine.data is not None:
        try:
            # A process that has used a GPU cannot be forked: there a stage of code that may
            # remember something beside its instance is a call of its own.
            on_gpu = worker.device.type != "cpu"
            apart = on_gpu and not is_known_code(context.subject.network, spec)
            parts = [(stage,) for stage in stages] if apart else [request.stages]
            found: dict[str, list[Judged]] = {}
            for part in parts:
                found |= replace(request, stages=part).ask()
            return Judgement(found)
        except WorkerError as error:
            reason, made = str(error), pickle.loads(pristine.data)
    if made is None:
        return Judgement({}, reason)
    network, given = copy.deepcopy(made)
    with _random_numbers_kept():
        return Judgement(judged(request, network, given, isolated=False), reason)


def is_known_code(network: nn.Module, spec: EvalSpec) -> bool:
    """Return whether a network's code is of libraries that are known, and its defense built in.

    Such code keeps nothing in its module or class, so that a new instance knows nothing of others.
    """
    if isinstance(spec.defense, DefenseSpec) and spec.defense.sha256:
        return False
    return all(
        is_library(type(part).__module__)
        and not isinstance(part, GraphModule | torch.jit.ScriptModule)
        and "forward" not in vars(part)
        and not has_hooks(part)
        for part in network.modules()
    )


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
