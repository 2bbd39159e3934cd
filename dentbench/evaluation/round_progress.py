"""Tell the progress where a comparison stands after a round, and how much is likely to follow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from dentbench.evaluation.estimates.duration import stage_of, stages_of
from dentbench.evaluation.progress.events import PlanChanged, Progress, RoundDone
from dentbench.records.outcome import Record
from dentbench.report import coupling
from dentbench.report.numbers import Paired
from dentbench.report.verdict import GAIN_POINTS
from dentbench.spec.evaluation import EvalSpec
from dentbench.stats.sequential import Look, images_needed


@dataclass
class RoundProgress:
    """The progress of a record's rounds.

    ``sizes``: the images of each batch; ``looks``: every look, by after how many batches it is
    taken. ``news``: whether the round computed anything, and is told. ``foreseen``: after how many
    batches the last look makes a decision likely.
    """

    progress: Progress | None
    spec: EvalSpec
    sizes: Sequence[int]
    looks: Mapping[int, Look]

    def __post_init__(self) -> None:
        self.news = True
        self.foreseen = len(self.sizes)

    def tell(
        self, end: int, record: Record, paired: Paired, *, pending: int, following: str = ""
    ) -> None:
        """Tell where the comparison stands after the first batches.

        ``pending``: how many protocols were not run; ``following``: which of them begins at once.
        """
        more, state = self._needed(end, record, paired), state_of(paired)
        if state == "undecided":
            self.foreseen = self._batches(record.n + more) if more else len(self.sizes)
        else:
            self.foreseen = min(end + 1, len(self.sizes))
        if self.progress is None or not self.news:
            return
        self.progress(
            RoundDone(
                images=record.n,
                of=sum(self.sizes),
                static=record.static_correct or 0,
                defense=self.spec.label,
                right=record.robust_correct,
                points=paired.points,
                low=paired.interval.low,
                high=paired.interval.high,
                state=state,
                more=more if state == "undecided" else None,
                pending=pending,
                next_protocol=following,
            )
        )

    def expect(self, batches: int, protocols: Sequence[str]) -> None:
        """Tell that protocols, and what they start from, are expected on the first batches."""
        if self.progress is None:
            return
        stages = stages_of([self.spec], {self.spec: protocols})
        self.progress(PlanChanged(batches={stage_of(*stage): batches for stage in stages}))

    def _needed(self, end: int, record: Record, paired: Paired) -> int | None:
        """Return about how many more images would decide, or None if no look does."""
        later = [other for other in self.looks.values() if other.batches > end]
        ratio = None
        if not (record.separable or coupling.measured_independent(record)):
            # Before there are batches enough to tell, they are taken to share nothing.
            few = self.looks[end].few_batches
            ratio = 1.0 if math.isinf(paired.effect) else paired.effect / few
        counts = (paired.gained, paired.lost, paired.total)
        return images_needed(counts, ratio, later, GAIN_POINTS / 100)

    def _batches(self, images: int) -> int:
        return 1 + sum(end < images for end in accumulate(self.sizes))


def state_of(paired: Paired) -> str:
    """Return the decision of the difference so far, checks and missing protocols aside."""
    if paired.significant:
        return "a gain so far" if paired.points > 0 else "weaker than static"
    return "no gain" if paired.interval.high < GAIN_POINTS else "undecided"
