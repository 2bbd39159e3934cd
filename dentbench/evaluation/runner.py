"""The one path from specs to records: map over declared batches, reduce to counts, write down.

For every missing outcome: adapt, attack, project, clip, judge afresh, write one file. Running the
same specs again finds nothing left to do; an interrupted run goes on at the first missing batch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, Protocol

import torch

from dentbench.attacks.base import Classifier, ThreatModel, offers
from dentbench.attacks.budget import queries_of
from dentbench.attacks.catalogue import (
    CHECKS_VERSION,
    CLAIMED,
    PROTOCOLS,
    attack_label,
    is_given,
)
from dentbench.attacks.checks import Check
from dentbench.attacks.cost import stage_passes
from dentbench.attacks.required_budgets import spent
from dentbench.compute.backend import Engine
from dentbench.errors import DataError
from dentbench.evaluation import cascade, out_of_memory, sanity_checks
from dentbench.evaluation.claimed import require_fitting
from dentbench.evaluation.context import RunContext, RunOptions
from dentbench.evaluation.example_images import keep_gallery
from dentbench.evaluation.executor import Executor, make_executor
from dentbench.evaluation.flag_checks import Stages
from dentbench.evaluation.fresh_judgement import (
    Judgement,
    Pristine,
    is_judged,
    is_stale,
    judgement,
)
from dentbench.evaluation.fresh_process import SERVER
from dentbench.evaluation.measurements import observations
from dentbench.evaluation.placement import AUTO
from dentbench.evaluation.planted import planted
from dentbench.evaluation.worker import Subject, Task, Worker
from dentbench.evaluation.worker_count import with_worker_count
from dentbench.records import examples, per_class, results_csv
from dentbench.records.aggregate import static_cases, summarize
from dentbench.records.chance import chance_columns
from dentbench.records.checkpoint import Points, RunFolder
from dentbench.records.claims import load_claim
from dentbench.records.judged import NOTE
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome, Record, spec_columns
from dentbench.records.provenance import provenance
from dentbench.spec.evaluation import DefenseSpec, EvalSpec
from dentbench.zoo.download.cache import default_cache

_log = logging.getLogger(__name__)

SAMPLE: Final = 32
"""How many images the choice of an engine is timed on."""


class Progress(Protocol):
    """Who is told how a run goes on; counts are single-image passes through the network."""

    def begin(self, title: str, passes: int) -> None:
        """A stage begins that will cost at most so many passes."""

    def advance(self, passes: int) -> None:
        """So many passes of the stage are done in all."""

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """A batch of the stage is finished; so many images are right so far."""


SAME_NETWORK: Final = f"same-network-{CHECKS_VERSION}"
"""The note beside the outcomes that says on what kind of device the network was compared."""


class Evaluation:
    """Specs evaluated on one subject; every spec of :meth:`run` has the subject's model and data.

    ``given``: the objects that specs of defenses given from Python stand for.
    Raises :class:`~dentbench.errors.ModelError` or :class:`~dentbench.errors.DataError` when the
    network does not fit the images or the labels.
    """

    def __init__(
        self,
        subject: Subject,
        options: RunOptions,
        progress: Progress | None = None,
        given: Mapping[DefenseSpec, Any] | None = None,
    ) -> None:
        self.options = options
        self.progress = progress
        self.subject = subject
        self.pristine = Pristine(subject.network, given)
        placement = options.placement
        device = placement.devices[0]
        with out_of_memory.raise_on_oom("the model", device):
            engine = Engine.chosen(
                subject.network,
                torch.device(device),
                subject.images[:SAMPLE],
                placement.compiling,
                default_cache(),
            )
        self.worker = Worker(subject, device, engine, given)
        self._compared: set[Any] = set()
        self._wanted: tuple[Sequence[EvalSpec], Sequence[str]] = (), ()
        if placement.workers != AUTO:
            _ = self.executor  # what is wrong with it is told before hours are spent
        self.context = RunContext(
            subject=subject,
            worker=self.worker,
            options=options,
            outcomes=self.outcomes,
            natural_given=self._natural_given,
        )

    @cached_property
    def executor(self) -> Executor:
        """What carries out tasks; where nobody said by how many workers, for what is to be run."""
        asked = self.options.placement
        settled = with_worker_count(asked, self.worker, *self._wanted, default_cache())
        return make_executor(settled, self.worker, fall_back=asked.workers == AUTO)

    def plan(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> None:
        """Say what is to be run, before anything is: how many workers are faster depends on it."""
        self._wanted = specs, protocols

    def run(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> list[Record]:
        """Return one record per spec, in order, written to the results file as they are made.

        A spec with a defense is attacked by every protocol, a static one by "published" alone,
        neither with the attack "none". A static one is evaluated before the defended ones when
        they are to be compared with it.
        """
        found = len(self.subject.images)
        self.plan(specs, protocols)
        for spec in specs:
            if spec.data.count != found:
                raise DataError(f"{spec.data.count} images are asked for, but {found} are there")
            with out_of_memory.raise_on_oom(f"the defense {spec.label}", self.worker.device):
                self.classifier(spec)  # what it refuses is told before hours are spent
                self._require_same_network(spec)
            for name in protocols if spec.defense else ():
                if name.startswith(f"{CLAIMED}@"):
                    points = load_claim(self.options.results, name.partition("@")[2])
                    require_fitting(points, self.subject.images, ThreatModel.of(spec.attack))
            if self.options.fresh:
                self._folder(spec).clear()
            if not self._is_compared(spec):
                self._folder(spec).save_note(SAME_NETWORK, self.worker.device.type)
        if self.pristine.data is not None and any(map(self._will_be_judged_again, specs)):
            SERVER.start()  # it loads its libraries while the attacks run
        return [self._record(spec, protocols) for spec in specs]

    def _will_be_judged_again(self, spec: EvalSpec) -> bool:
        if spec.defense is None or spec.attack.is_none:
            return False
        return not is_judged(self._folder(spec), NATURAL)

    def _require_same_network(self, spec: EvalSpec) -> None:
        """Compare what a spec computes with the network handed in, unless that was done before."""
        key = (spec.defense, spec.batches)
        if key not in self._compared and (self.options.fresh or not self._is_compared(spec)):
            self.worker.require_same_network(spec)
        self._compared.add(key)

    def _is_compared(self, spec: EvalSpec) -> bool:
        """Return whether a run of this spec on such a device has compared it."""
        note: str | None = self._folder(spec).load_note(SAME_NETWORK)
        return note == self.worker.device.type

    def _record(self, spec: EvalSpec, protocols: Sequence[str]) -> Record:
        attacked = not spec.attack.is_none
        # Before the defense is shown anything else; what they ask matters under attack only.
        checks = sanity_checks.probed(self.context, spec) if attacked else ()
        natural = self._natural_check(spec)
        wanted = (protocols if spec.defense else (PUBLISHED,)) if attacked else ()
        skipped = self.skipped(spec, wanted) if spec.defense else {}
        run = [name for name in wanted if name not in skipped]
        for name, reason in skipped.items():
            _log.warning("%s is skipped: %s", name, reason)
        for stage in (NATURAL, *run):
            self.outcomes(spec, stage)
        if spec.defense is not None:
            # What earlier runs of this key found counts too, whatever is asked for now.
            given = [*filter(is_given, run), *self._folder(spec).stages(is_given)]
            known = (*PROTOCOLS, *dict.fromkeys(given))
            run = [name for name in known if name in run or self._complete(spec, name)]
            if attacked:
                checks = (*checks, planted(self.context, spec, run, self.offers(spec)))
        stages = [NATURAL, *run]
        outcomes: dict[str, Sequence[BatchOutcome]] = {
            stage: self.outcomes(spec, stage) for stage in stages
        }
        again = None
        if spec.defense is not None and attacked:
            again = self._judged_again(spec, outcomes)
            checks = (*checks, again.check(outcomes))
        counted = outcomes if again is None else again.applied(outcomes)
        static = None if spec.defense is None else self.static_outcomes(spec, stages)
        summary = summarize(counted, static, separable=spec.separable)
        if again is not None and again.random and static is not None:
            summary |= chance_columns(
                {stage: again.draws(stage) for stage in stages}, static_cases(outcomes, static)
            )
        record = Record(
            **spec_columns(spec),
            skipped=json.dumps(skipped) if skipped else None,
            **summary,
            decision_queries=queries_of(spec) if {"scores", "decision"} & {*run} else None,
            budgets=_budgets(spec, run) if attacked else None,
            checks=sanity_checks.column(checks, outcomes, summary["batch_mates"], spec, natural),
            static_checks=self._static_checks(spec, static, natural)
            if static and attacked
            else None,
            **observations(self.context, spec),
            **provenance(self.options.placement.devices[0]),
            attack_label=attack_label(spec.attack),
            source=json.dumps(self.options.source) if self.options.source else None,
        )
        self._keep_for_reports(spec, counted)
        results_csv.append(self.options.results, record)
        return record

    def _judged_again(
        self, spec: EvalSpec, outcomes: dict[str, Sequence[BatchOutcome]]
    ) -> Judgement:
        """Return what a defense that nobody asked anything says of the final points."""
        random = sanity_checks.found_random(self.context, spec)
        draws = spec.protocols.draws_judged if random else 1
        folder = self._folder(spec)
        for stage, batches in outcomes.items():
            if is_stale(folder, stage, batches, draws):  # files were lost or taken away since
                folder.drop_note(f"{stage}/{NOTE}")
                outcomes[stage] = self.outcomes(spec, stage)
        keep = self.options.save_adversarial
        return judgement(self.context, self.pristine, spec, outcomes, draws=draws, keep_points=keep)

    def static_outcomes(
        self, spec: EvalSpec, stages: Sequence[str]
    ) -> dict[str, list[BatchOutcome]]:
        """Return the static model's outcomes, by stage, that the stages of a defense face.

        Its natural accuracy, its own published attack, and the counterparts of the stages.
        """
        compared = [NATURAL, *([PUBLISHED] if len(stages) > 1 else [])]
        compared += [stage for stage in stages if cascade.has_counterpart(spec, stage)]
        return {stage: self.outcomes(spec.counterpart, stage) for stage in compared}

    def _static_checks(self, spec: EvalSpec, outcomes: Stages, natural: Check) -> str:
        """Return what a verdict on a defense must know of its static model's own checks."""
        checks = sanity_checks.probed(self.context, spec.static)
        return sanity_checks.static_column(
            sanity_checks.column(checks, outcomes, None, spec.static, natural)
        )

    def _keep_for_reports(
        self, spec: EvalSpec, outcomes: Mapping[str, Sequence[BatchOutcome]]
    ) -> None:
        """Keep the counts by class and, where points are saved, a few images for the eye."""
        labels = self.subject.labels.tolist()
        found = per_class.break_down(outcomes, labels, self.worker.classes)
        changed = per_class.save(self._folder(spec), found)
        if self.options.save_adversarial and (changed or not self._folder(spec).has(examples.FILE)):
            keep_gallery(self.context, spec, outcomes)

    def _natural_check(self, spec: EvalSpec) -> Check:
        """Compare the static model's natural accuracy with what it should be; may stop the run."""
        flags = [
            flag for outcome in self.outcomes(spec.static, NATURAL) for flag in outcome.correct
        ]
        expected, source = self.subject.published_natural, "published"
        if self.subject.expected_natural is not None:
            expected, source = self.subject.expected_natural, "expected"
        check = sanity_checks.natural_accuracy(sum(flags), len(flags), expected, source)
        sanity_checks.require_natural(check, force=self.options.force)
        return check

    @cached_property
    def _in_given_order(self) -> Evaluation:
        """The same images in the data set's own order; its outcomes are the natural ones alone."""
        assert self.subject.given is not None
        return Evaluation(self.subject.given[0], self.options, self.progress)

    def _natural_given(self, spec: EvalSpec) -> int | None:
        """Return how many images are right in the given order, where the run has another.

        It is the natural pass of the run on the given order, which has it in common.
        """
        if self.subject.given is None:
            return None
        given = replace(spec, data=self.subject.given[1])
        outcomes = self._in_given_order.outcomes(given, NATURAL)
        return sum(flag for outcome in outcomes for flag in outcome.correct)

    def outcomes(self, spec: EvalSpec, stage: str) -> list[BatchOutcome]:
        """Return a stage's outcomes on all batches, computing and storing what is missing."""
        units = spec.batches.ranges(spec.data.count)
        found = [self._stored(spec, stage, unit) for unit in range(len(units))]
        known = [outcome for outcome in found if outcome is not None]
        if len(known) == len(units):
            return known
        if stage != NATURAL:
            self.outcomes(spec, NATURAL)
            if PROTOCOLS[stage].needs_static:
                self.outcomes(spec.static, PUBLISHED)
            if cascade.has_counterpart(spec, stage):
                self.outcomes(spec.counterpart, stage)
            for earlier in cascade.earlier_stages(spec, stage):
                self.outcomes(spec, earlier)
        with self._folder(spec).exclusive():
            return self._completed(spec, stage, units)

    def _completed(self, spec: EvalSpec, stage: str, units: Sequence[range]) -> list[BatchOutcome]:
        """Compute and store what is missing, as the only process at it; return all outcomes."""
        found = {unit: self._stored(spec, stage, unit) for unit in range(len(units))}
        outcomes = {unit: outcome for unit, outcome in found.items() if outcome is not None}
        missing = [unit for unit in found if unit not in outcomes]
        with self._watched(spec, stage, [units[unit] for unit in missing]):
            right: list[bool] = []
            for done, outcome in enumerate(self._computed(spec, stage, missing), 1):
                outcomes[outcome.index] = outcome
                if self.progress is not None:
                    right += self._right(spec, outcome)
                    self.progress.unit_done(done, len(missing), sum(right), len(right))
        return [outcomes[unit] for unit in found]

    def _complete(self, spec: EvalSpec, stage: str) -> bool:
        units = range(len(spec.batches.ranges(spec.data.count)))
        return all(self._stored(spec, stage, unit) is not None for unit in units)

    def _stored(self, spec: EvalSpec, stage: str, unit: int) -> BatchOutcome | None:
        """Return a stored outcome, if the present code of its stage computed it."""
        keeps = self._keeps_points(spec, stage)
        found = self._folder(spec).load(stage, unit, with_points=keeps)
        present = found is not None and found.versions == cascade.versions(spec, stage)
        return found if present else None

    def _keeps_points(self, spec: EvalSpec, stage: str) -> bool:
        if stage == NATURAL:
            return False
        if self.options.save_adversarial or cascade.keeps_points(spec, stage):
            return True
        return spec.defense is not None and not is_judged(self._folder(spec), stage)

    def _computed(self, spec: EvalSpec, stage: str, units: Sequence[int]) -> Iterator[BatchOutcome]:
        """Carry out one stage on some batches; yield the outcomes once they are written down."""
        shared, natural = self.context.shared.natural, self.context.shared.key(spec)
        left = []
        for unit in units:
            known = shared.get((natural, unit)) if stage == NATURAL else None
            if known is None:
                left.append(unit)
            else:
                self._folder(spec).save(known, None)
                yield known
        tasks = (self._task(spec, stage, unit) for unit in left)
        for outcome, points in self.executor.map(tasks) if left else ():
            self._folder(spec).save(outcome, points)
            if stage == NATURAL:
                shared[natural, outcome.index] = outcome
            yield outcome

    def _task(self, spec: EvalSpec, stage: str, unit: int) -> Task:
        """Gather what one stage on one batch takes over from the stages before it."""
        task = Task(
            spec=spec,
            stage=stage,
            unit=unit,
            keep=self._keeps_points(spec, stage),
            at_a_time=self.worker.micro_batcher.size(spec),
        )
        if stage == NATURAL:
            return task
        folder = self._folder(spec)
        natural = folder.load(NATURAL, unit)
        assert natural is not None, "the natural stage comes first"
        static = None
        if PROTOCOLS[stage].needs_static:
            static = self._folder(spec.static).load_points(PUBLISHED, unit)
        others = self._folder(spec.counterpart)
        inherited = cascade.inheritance(folder, others, spec, stage, unit)
        random = spec.defense is not None and sanity_checks.found_random(self.context, spec)
        flags = natural.correct
        if random and spec.attack.eps:  # one unlucky answer keeps no image from being attacked
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
        """Return a batch of the points that a stage judges, where that is what it does."""
        text, _, name = stage.partition("@")
        if text != CLAIMED:
            return None
        points = load_claim(self.options.results, name)
        rows = spec.batches.ranges(spec.data.count)[unit]
        return points[rows.start : rows.stop]

    def offers(self, spec: EvalSpec) -> frozenset[str]:
        """Return what the defense has beside logits, as protocols ask for it."""
        found = offers(self.classifier(spec))
        if sanity_checks.found_random(self.context, spec):
            found |= {"random"}
        if hasattr(self.classifier(spec), "after"):
            found |= {"after"}
        return found | {"with_steps"} if self.worker.with_steps(spec) else found

    def skipped(self, spec: EvalSpec, protocols: Sequence[str]) -> dict[str, str]:
        """Return the protocols that cannot attack a spec's defense, with the reason of each."""
        able = self.offers(spec)
        reasons = {name: PROTOCOLS[name].reason_to_skip(spec, able) for name in protocols}
        return {name: reason for name, reason in reasons.items() if reason}

    def possible(self, spec: EvalSpec, protocols: Sequence[str]) -> list[str]:
        """Return the protocols that can attack a spec's defense."""
        skipped = self.skipped(spec, protocols) if spec.defense else {}
        return [name for name in protocols if name not in skipped]

    def classifier(self, spec: EvalSpec) -> Classifier:
        """Return what a spec attacks and judges: the network itself, or a defense around it."""
        return self.worker.classifier(spec)

    def _folder(self, spec: EvalSpec) -> RunFolder:
        return RunFolder(self.options.results, spec)

    @contextmanager
    def _watched(self, spec: EvalSpec, stage: str, batches: Sequence[range]) -> Iterator[None]:
        """Tell the progress what is being run, and count its passes."""
        if self.progress is None:
            yield
            return
        progress = self.progress
        passes = stage_passes(spec, stage, self.worker.classes)
        images = sum(map(len, batches))
        progress.begin(
            f"{spec.model.name} {spec.label} {stage}",
            (passes.forwards + passes.backwards) * images,
        )
        counter = self.worker.counter
        start = counter.forwards + counter.backwards
        counter.listen = lambda: progress.advance(counter.forwards + counter.backwards - start)
        try:
            yield
        finally:
            counter.listen = lambda: None

    def _right(self, spec: EvalSpec, outcome: BatchOutcome) -> list[bool]:
        """Return which images of a batch count as right: naturally too."""
        natural = self._folder(spec).load(NATURAL, outcome.index)
        assert natural is not None, "the natural stage comes first"
        return [one and other for one, other in zip(natural.correct, outcome.correct, strict=True)]


def _budgets(spec: EvalSpec, protocols: Sequence[str]) -> str:
    """Return the column ``budgets``: the published attack's, which the static model has too."""
    stages = dict.fromkeys((PUBLISHED, *protocols))
    return json.dumps({stage: spent(spec, stage) for stage in stages})
