"""The outcomes of every stage: loaded where they are stored, else computed and stored.

An interrupted run goes on at the first missing batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

from dentbench.attacks.attack_events import listening
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.cost import stage_passes
from dentbench.attacks.protocol_cards import claim_name
from dentbench.evaluation import cascade
from dentbench.evaluation.checks.sanity_checks import found_random, is_expected_random
from dentbench.evaluation.context import RunOptions, SharedResults
from dentbench.evaluation.estimates.duration import stage_of
from dentbench.evaluation.fresh_judgement.stored import is_judged
from dentbench.evaluation.progress.events import BatchDone, PassesDone, Progress, StageBegan
from dentbench.evaluation.workers.executor import Executor, make_executor
from dentbench.evaluation.workers.placement import AUTO, Placement
from dentbench.evaluation.workers.worker import Task, Worker
from dentbench.evaluation.workers.worker_count import with_worker_count
from dentbench.records.checkpoint import Points, RunFolder, Stamp
from dentbench.records.claims import load_claim
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome
from dentbench.spec.evaluation import EvalSpec


class LimitReachedError(Exception):
    """A stage ended between its batches, for the next was not to begin; finished ones are stored.

    It never leaves the rounds of a record.
    """


class StageOutcomes:
    """The stages of specs on the same inputs; ``computed`` counts the batches that were not stored.

    ``worker``: computes in this process. ``shared``: results in common of specs that differ in the
    attack alone.
    """

    def __init__(self, worker: Worker, options: RunOptions, progress: Progress | None) -> None:
        self.worker = worker
        self.options = options
        self.progress = progress
        self.shared = SharedResults()
        self.computed = 0
        self._may_begin: Callable[[], bool] = lambda: True
        # Every round asks for the outcomes of all rounds before it: a file is read once.
        self._read: dict[Stamp, tuple[BatchOutcome, bool]] = {}
        self._planned: tuple[Sequence[EvalSpec], Sequence[str]] = (), ()
        if options.placement.workers != AUTO:
            _ = self.executor  # an error in it is raised before hours are spent

    @cached_property
    def executor(self) -> Executor:
        """The executor of tasks; the number of workers, if not given, suits the plan."""
        asked = self.options.placement
        return make_executor(self._settled, self.worker, fall_back=asked.workers == AUTO)

    @cached_property
    def _settled(self) -> Placement:
        asked = self.options.placement
        return with_worker_count(asked, self.worker, *self._planned, self.options.fetch.folder)

    @property
    def batches_at_a_time(self) -> int:
        """How many batches are worked on at a time: as many as there are workers."""
        return self._settled.count

    def plan(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> None:
        """Set the plan before the run: the best number of workers depends on it."""
        self._planned = specs, protocols

    def outcomes(self, spec: EvalSpec, stage: str, first: int | None = None) -> list[BatchOutcome]:
        """Return a stage's outcomes on its first batches, computing and storing those missing.

        ``first``: how many batches; None for all.
        """
        units = spec.batches.ranges(spec.data.count)[:first]
        stored = [self._stored(spec, stage, unit) for unit in range(len(units))]
        there = [outcome for outcome in stored if outcome is not None]
        if len(there) == len(units):
            return there
        if stage != NATURAL:
            self.outcomes(spec, NATURAL, first)
            if PROTOCOLS[stage].needs_static:
                self.outcomes(spec.static, PUBLISHED, first)
            if cascade.has_counterpart(spec, stage):
                self.outcomes(spec.counterpart, stage, first)
            for earlier in cascade.earlier_stages(spec, stage):
                self.outcomes(spec, earlier, first)
        with self.folder(spec).exclusive():
            return self._completed(spec, stage, units)

    @contextmanager
    def asking(self, may_begin: Callable[[], bool]) -> Iterator[None]:
        """Ask before each batch of the block that is to be computed whether it may begin.

        Where it may not, :meth:`outcomes` raises :class:`LimitReachedError` once batches that have
        begun are stored.
        """
        self._may_begin = may_begin
        try:
            yield
        finally:
            self._may_begin = lambda: True

    def is_complete(self, spec: EvalSpec, stage: str, first: int | None = None) -> bool:
        """Return whether the outcomes of the first batches, by default of all, are stored."""
        units = range(len(spec.batches.ranges(spec.data.count)[:first]))
        return all(self._stored(spec, stage, unit) is not None for unit in units)

    def images_left(self, spec: EvalSpec, stage: str) -> int:
        """Return how many images of a stage are not stored yet."""
        units = spec.batches.ranges(spec.data.count)
        missing = [rows for unit, rows in enumerate(units) if not self._stored(spec, stage, unit)]
        return sum(map(len, missing))

    def stored(self, stages: Sequence[tuple[EvalSpec, str]], first: int) -> list[BatchOutcome]:
        """Return the stored outcomes of some stages' first batches."""
        outcomes = [self._stored(*stage, unit) for stage in stages for unit in range(first)]
        return [outcome for outcome in outcomes if outcome is not None]

    def folder(self, spec: EvalSpec) -> RunFolder:
        """Return the folder of a spec's outcomes and notes."""
        return RunFolder(self.options.results, spec, self._read)

    def _completed(self, spec: EvalSpec, stage: str, units: Sequence[range]) -> list[BatchOutcome]:
        """Compute and store missing outcomes, as the only process at it; return all."""
        stored = {unit: self._stored(spec, stage, unit) for unit in range(len(units))}
        outcomes = {unit: outcome for unit, outcome in stored.items() if outcome is not None}
        missing = [unit for unit in stored if unit not in outcomes]
        batches = len(spec.batches.ranges(spec.data.count))
        right: list[bool] = []
        if self.progress is not None:
            right = [
                flag
                for batch_outcomes in outcomes.values()
                for flag in self._right(spec, batch_outcomes)
            ]
        with self._watched(spec, stage, [units[unit] for unit in missing]):
            for outcome in self._computed(spec, stage, missing):
                outcomes[outcome.index] = outcome
                if self.progress is not None:
                    right += self._right(spec, outcome)
                    self.progress(
                        BatchDone(
                            done=len(outcomes),
                            batches=batches,
                            right=sum(right),
                            images=len(right),
                        )
                    )
        if len(outcomes) < len(units):
            raise LimitReachedError
        return [outcomes[unit] for unit in stored]

    def _stored(self, spec: EvalSpec, stage: str, unit: int) -> BatchOutcome | None:
        """Return a stored outcome, if the present code of its stage computed it."""
        keeps = self._keeps_points(spec, stage)
        stored = self.folder(spec).load(stage, unit, with_points=keeps)
        present = stored is not None and stored.versions == cascade.versions(spec, stage)
        return stored if present else None

    def _keeps_points(self, spec: EvalSpec, stage: str) -> bool:
        if stage == NATURAL:
            return False
        if self.options.save_adversarial or cascade.keeps_points(spec, stage):
            return True
        return spec.defense is not None and not is_judged(self.folder(spec), stage)

    def _computed(self, spec: EvalSpec, stage: str, units: Sequence[int]) -> Iterator[BatchOutcome]:
        """Carry out a stage on some batches; yield the outcomes once they are written down."""
        shared, natural = self.shared.natural, self.shared.key(spec)
        left = []
        for unit in units:
            earlier = shared.get((natural, unit)) if stage == NATURAL else None
            if earlier is None:
                left.append(unit)
            else:
                self.folder(spec).save(earlier, None)
                yield earlier
        tasks = self._tasks(spec, stage, left)
        for outcome, points in self.executor.map(tasks) if left else ():
            self.folder(spec).save(outcome, points)
            if stage == NATURAL:
                shared[natural, outcome.index] = outcome
            yield outcome

    def _tasks(self, spec: EvalSpec, stage: str, units: Sequence[int]) -> Iterator[Task]:
        """Yield the task of each batch, as an executor asks for them, while they may begin."""
        for unit in units:
            if not self._may_begin():
                return
            self.computed += 1
            yield self._task(spec, stage, unit)

    def _task(self, spec: EvalSpec, stage: str, unit: int) -> Task:
        """Gather a stage's inheritance on a batch from the stages before it."""
        task = Task(
            spec=spec,
            stage=stage,
            unit=unit,
            keep=self._keeps_points(spec, stage),
            at_a_time=self.worker.micro_batcher.size(spec),
        )
        if stage == NATURAL:
            return task
        folder = self.folder(spec)
        natural = folder.load(NATURAL, unit)
        assert natural is not None, "the natural stage comes first"
        static = None
        if PROTOCOLS[stage].needs_static:
            static = self.folder(spec.static).load_points(PUBLISHED, unit)
        others = self.folder(spec.counterpart)
        inherited = cascade.inheritance(folder, others, spec, stage, unit)
        random = spec.defense is not None and found_random(folder)
        flags = natural.correct
        if random and spec.attack.eps:  # an unlucky answer keeps no image from being attacked
            flags = (True,) * len(flags)
        return replace(
            task,
            claimed_points=self._claimed(spec, stage, unit),
            natural=flags,
            static_points=static,
            inherited=inherited,
            random=random,
        )

    def _claimed(self, spec: EvalSpec, stage: str, unit: int) -> Points | None:
        """Return a batch of the points that a stage judges; None for stages that make their own."""
        name = claim_name(stage)
        if name is None:
            return None
        points = load_claim(self.options.results, name)
        rows = spec.batches.ranges(spec.data.count)[unit]
        return points[rows.start : rows.stop]

    # --- progress ---------------------------------------------------------------------------------

    @contextmanager
    def _watched(self, spec: EvalSpec, stage: str, batches: Sequence[range]) -> Iterator[None]:
        """Tell the progress which stage begins, its passes and the attacks of it."""
        if self.progress is None:
            yield
            return
        progress, counter = self.progress, self.worker.counter
        random = is_expected_random(self.folder(spec), spec)
        passes = stage_passes(spec, stage, self.worker.classes, random=random)
        whole = (passes.forwards + passes.backwards) * sum(map(len, batches))
        progress(StageBegan(stage=stage_of(spec, stage), passes=whole))
        start = counter.forwards + counter.backwards
        counter.listen = lambda: progress(
            PassesDone(passes=counter.forwards + counter.backwards - start)
        )
        try:
            with listening(progress):
                yield
        finally:
            counter.listen = lambda: None

    def _right(self, spec: EvalSpec, outcome: BatchOutcome) -> list[bool]:
        """Return which images of a batch count as right: naturally too."""
        natural = self.folder(spec).load(NATURAL, outcome.index)
        assert natural is not None, "the natural stage comes first"
        return [
            before and other for before, other in zip(natural.correct, outcome.correct, strict=True)
        ]
