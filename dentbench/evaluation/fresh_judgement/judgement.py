"""Apply the judgement of final points by new defenses to outcomes, and make a check of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dentbench.attacks import checks as names
from dentbench.attacks.checks import Check
from dentbench.records.judged import Judged, is_random
from dentbench.records.outcome import NATURAL, BatchOutcome


@dataclass(frozen=True)
class Judgement:
    """New answers by stage and batch; ``reason``: why they are not of new processes, or "".

    ``declared_random``: whether the defense is declared to draw its answers.
    """

    stages: Mapping[str, Sequence[Judged]]
    reason: str = ""
    declared_random: bool = False

    @property
    def random(self) -> bool:
        """Whether an instance that is asked for the first time answers by chance.

        Some do so at perturbed images alone.
        """
        return (self.declared_random and bool(self.stages)) or any(
            is_random(batches) for batches in self.stages.values()
        )

    def draws(self, stage: str) -> tuple[tuple[bool, ...], ...]:
        """Return, draw by draw, whether each image is right under a stage."""
        batches = [batch.right for batch in self.stages[stage]]
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
            "the process that was attacked: the answers depend on earlier questions, or now "
            "and then on chance"
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
    """Compare how many images were right where the attack ran with how many are expected by chance.

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
    more = "" if passed else ": the answers depend on earlier questions"
    return Check(name, passed, excess / total if total else 0.0, text + more)
