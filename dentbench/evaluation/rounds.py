"""Carry out a record in rounds of whole batches, and stop where the schedule allows it.

In a round every protocol has its turn on the same batches, the most effective per pass first, so
that a verdict can be given after each. A run that is to stop when its verdict is decided begins
with the cheapest protocol alone: the others can only take a gain away, or make a loss larger. They
are run, one after the other and on all batches so far, once there is a gain to take away, or
nothing else is left, and end the run as soon as they decide it; ``holds`` needs them all.

A limit ends a run before the next batch of a stage. Its record is of the batches that every
protocol has seen; where the first of them alone takes longer, of the protocols that have seen it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property

from dentbench.attacks.protocol_cards import is_given
from dentbench.attacks.stage_order import cheap_first
from dentbench.evaluation import cascade
from dentbench.evaluation.round_progress import RoundProgress
from dentbench.evaluation.schedule import DECIDED, Schedule
from dentbench.evaluation.stage_outcomes import LimitReachedError, StageOutcomes
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome, Record
from dentbench.records.stopping import Rule, Stopped
from dentbench.report import coupling
from dentbench.report.numbers import Paired
from dentbench.report.verdict import GAIN_POINTS, kind_of
from dentbench.spec.evaluation import EvalSpec
from dentbench.stats import CONFIDENCE
from dentbench.stats.sequential import level_of_look, looks_of, will_lose

Draft = Callable[["Reached", bool], Record]
"""Makes the record of the batches reached, without storing it; with all checks, or cheap ones."""

Ended = tuple[int, Rule]
"""After how many batches a run ended, and by which rule."""


@dataclass(frozen=True)
class Reached:
    """How far a record got: its first ``batches``, under ``protocols``.

    ``stopped``: how a run that might stop early ended, else None.
    """

    batches: int
    protocols: tuple[str, ...]
    stopped: Stopped | None = None

    @property
    def confidence(self) -> float:
        """The confidence of an interval that holds here, in (0, 1)."""
        level = None if self.stopped is None else self.stopped.level
        return CONFIDENCE if level is None else 1 - 2 * level


@dataclass
class Rounds:
    """The rounds of a record.

    ``protocols``: those that can attack the defense; ``draft``: makes a record of the batches
    reached. ``seconds``: how much of the time limit is this record's; None without a limit.
    """

    stages: StageOutcomes
    spec: EvalSpec
    protocols: Sequence[str]
    schedule: Schedule
    draft: Draft
    seconds: float | None = None
    _began: float = field(default_factory=lambda: time.monotonic())

    def __post_init__(self) -> None:
        self.sizes = [len(rows) for rows in self.spec.batches.ranges(self.spec.data.count)]
        self.looks = {look.batches: look for look in looks_of(self.sizes)}
        self._told = RoundProgress(self.stages.progress, self.spec, self.sizes, self.looks)
        ordered = cheap_first(self.protocols)
        self.until_decided = self.schedule.until == DECIDED and self.spec.defense is not None
        at_first = 1 + sum(map(is_given, ordered)) if self.until_decided else len(ordered)
        self._active, self._deferred = ordered[:at_first], ordered[at_first:]

    def carry_out(self) -> Reached:
        """Work through the rounds; return how far it got.

        The record of a run that may stop is marked as such even where it judged all images: its
        interval must allow for the looks that it had.
        """
        longest = dearest = 0.0
        seen, spent = 0, self._passes(0)
        for end in self._ends():
            started, before = time.monotonic(), self.stages.computed
            run, limit = self._carry_out_round(end, is_first=not seen)
            if limit is not None:
                return self._reached(seen, limit) if seen else self._reached(end, limit, run)
            self._told.news, seen = self.stages.computed > before, end
            ended = self._after(end) if end in self._looked_at else None
            if ended is not None:
                return self._reached(*ended)
            longest = max(longest, time.monotonic() - started)
            passes = self._passes(end)
            dearest, spent = max(dearest, passes - spent), passes
            limit = self._limit(longest, dearest, spent)
            if limit is not None and end < len(self.sizes):
                return self._reached(end, limit)
            self._expect(end, longest, dearest, spent)
        return self._reached(len(self.sizes), DECIDED if self.until_decided else None)

    # --- a round --------------------------------------------------------------------------------

    def _carry_out_round(self, end: int, *, is_first: bool) -> tuple[list[str], Rule | None]:
        """Run every active protocol on the first batches; return those run, and the limit, if any.

        Whatever the limit, the first round has the cheapest protocol: there is always a record.
        """
        run: list[str] = []
        attacked = self.spec.defense is not None and bool(self._active)
        base = [(self.spec, NATURAL), *([(self.spec.static, PUBLISHED)] if attacked else [])]
        for spec, stage in base:
            limit = self._carry_out(spec, stage, end, unlimited=is_first)
            if limit is not None:
                return run, limit
        for stage in self._active:
            limit = self._carry_out(self.spec, stage, end, unlimited=is_first and not run)
            if limit is not None:
                return run, limit
            run.append(stage)
        return run, None

    def _carry_out(
        self, spec: EvalSpec, stage: str, end: int, *, unlimited: bool = False
    ) -> Rule | None:
        """Run a stage on the first batches; return the limit that ended it between batches.

        What is finished of it stays stored, and counts nothing until the rest is there.
        """
        limits: list[Rule] = []

        def may_begin() -> bool:
            limit = self._limit(0, 0, self._passes(end))
            limits.extend([] if limit is None else [limit])
            return limit is None

        try:
            with nullcontext() if unlimited else self.stages.asking(may_begin):
                self.stages.outcomes(spec, stage, end)
        except LimitReachedError:
            return limits[-1]
        return None

    def _after(self, end: int) -> Ended | None:
        """Look at the record after a round; run deferred protocols where they are called for.

        Return after how many batches, and by which rule, the run ends, if it does.
        """
        if self.spec.defense is None or not self.protocols:
            return None
        watched = self.stages.progress is not None and self._told.news
        if not (self.until_decided or watched):
            return None
        while True:
            record = self.draft(self._reached(end, DECIDED), False)
            paired = coupling.paired(record)
            if paired is None:
                return None
            if self.until_decided and self._is_decided(end, paired):
                self._tell(end, record, paired)
                return end, DECIDED
            called_for = (paired.significant and paired.points > 0) or end == len(self.sizes)
            if not (self._deferred and called_for):
                self._tell(end, record, paired)
                return None
            limit = self._limit(0, 0, self._passes(end))
            ended: Ended | None = None if limit is None else (end, limit)
            if ended is None:
                self._told.expect(end, self._deferred[:1])
                self._tell(end, record, paired, self._deferred[0])
                before = self.stages.computed
                ended = self._carry_out_deferred(end)
                self._told.news |= self.stages.computed > before
            if ended is not None:
                if ended[1] != DECIDED:
                    self._tell(end, record, paired)
                return ended

    def _carry_out_deferred(self, end: int) -> Ended | None:
        """Run the next deferred protocol on the first batches, one look after the other.

        It may decide the verdict of fewer batches than called for it.
        """
        stage, active = self._deferred[0], self._active
        self._active = [*active, stage]  # its passes count while it runs
        for look in (look for look in self._looked_at if look <= end):
            limit = self._carry_out(self.spec, stage, look)
            if limit is not None:
                self._active = active
                return end, limit
            if look < end and self._decides(look):
                return look, DECIDED
        del self._deferred[0]
        return None

    def _decides(self, look: int) -> bool:
        """Return whether the verdict of fewer batches is decided now, and tell it."""
        record = self.draft(self._reached(look, DECIDED), False)
        paired = coupling.paired(record)
        if paired is None or not self._is_decided(look, paired):
            return False
        self._tell(look, record, paired)
        return True

    def _is_decided(self, end: int, paired: Paired) -> bool:
        """Return whether the verdict is decided; confirm it with all checks made."""
        if paired.significant and paired.points > 0:
            wanted = {"holds"} if not self._deferred else set()
        elif paired.significant:
            wanted = {"weaker than static", "no gain"}  # a loss may be in doubt, and is no gain
        elif paired.interval.high < GAIN_POINTS and not self._will_lose(paired):
            wanted = {"no gain"}
        else:
            wanted = set()
        return bool(wanted) and kind_of(self.draft(self._reached(end, DECIDED), True)) in wanted

    def _will_lose(self, paired: Paired) -> bool:
        by_images = {look.images: look.level for look in self.looks.values()}
        counts = (paired.gained, paired.lost, paired.total)
        return bool(will_lose(*counts, paired.effect, by_images))

    def _tell(self, end: int, record: Record, paired: Paired, following: str = "") -> None:
        """Tell the progress where the comparison stands, and which protocol follows at once."""
        pending = len(self._deferred)
        self._told.tell(end, record, paired, pending=pending, following=following)

    def _expect(self, end: int, longest: float, dearest: float, spent: float) -> None:
        """Tell on how many batches the active protocols are expected to be run.

        A decision or a limit may end the run before the last.
        """
        rounds = math.inf
        if self.seconds is not None and longest:
            rounds = (self.seconds + self._began - time.monotonic()) // longest
        if self.schedule.pass_limit is not None and dearest:
            rounds = min(rounds, (self.schedule.pass_limit - spent) // dearest)
        if self.until_decided or rounds < math.inf:
            fitting = end + max(rounds, 0) * self.stages.batches_at_a_time
            expected = self._told.foreseen if self.until_decided else len(self.sizes)
            self._told.expect(int(min(fitting, expected, len(self.sizes))), self._active)

    # --- how far ----------------------------------------------------------------------------------

    @cached_property
    def _looked_at(self) -> list[int]:
        """After how many batches each round ends that was asked for, the last batch last."""
        looks = [*self.looks]
        wanted = self.schedule.rounds or self.stages.batches_at_a_time
        return [end for end in looks if end % wanted < looks[0] or end == looks[-1]]

    def _ends(self) -> list[int]:
        """Return after how many batches each round ends; under a limit they are short."""
        if not self._is_limited:
            return self._looked_at
        step = self.stages.batches_at_a_time
        return sorted({*self._looked_at, *range(step, len(self.sizes), step)})

    def _reached(
        self, end: int, rule: Rule | None, protocols: Sequence[str] | None = None
    ) -> Reached:
        """Return how far a run got whose first batches these protocols, or all active, have seen.

        A limit may end it between two looks: the batches after the first are left out.
        """
        seen = self._active if protocols is None else protocols
        run = tuple(name for name in self.protocols if name in seen)
        if rule is None:
            return Reached(end, run)
        left = tuple(name for name in self.protocols if name not in run)
        end = max((look for look in self.looks if look <= end), default=end)
        stop = Stopped(
            rule=rule,
            images=sum(self.sizes[:end]),
            of=sum(self.sizes),
            level=None if self.spec.defense is None else level_of_look(self.sizes, end),
            not_run=() if rule == DECIDED else left,
        )
        return Reached(end, run, stop)

    @property
    def _is_limited(self) -> bool:
        return self.seconds is not None or self.schedule.pass_limit is not None

    def _limit(self, longest: float, dearest: float, spent: float) -> Rule | None:
        """Return the limit that another round like the longest and the dearest would break."""
        gone = time.monotonic() - self._began
        if self.seconds is not None and gone + longest > self.seconds:
            return "time limit"
        most = self.schedule.pass_limit
        if most is not None and spent + dearest > most:
            return "pass limit"
        return None

    def _passes(self, end: int) -> float:
        """Return the passes of the stored first batches, the static model's included."""
        if self.schedule.pass_limit is None:
            return 0
        stages = [(self.spec, stage) for stage in (NATURAL, *self._active)]
        if self.spec.defense is not None:
            stages += [(self.spec.static, stage) for stage in (NATURAL, PUBLISHED)]
            stages += [
                (owner.counterpart, stage)
                for owner, stage in stages
                if cascade.has_counterpart(owner, stage)
            ]
        return sum(map(_cost, self.stages.stored(stages, end)))


def _cost(outcome: BatchOutcome) -> int:
    return outcome.forwards + outcome.backwards
