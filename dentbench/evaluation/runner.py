"""The one path from specs to records: map over declared batches, reduce to counts, write down.

For every missing outcome: adapt, attack, project, clip, judge afresh, write one file. Running the
same specs again finds nothing left to do; an interrupted run goes on at the first missing batch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.budget import queries_of
from dentbench.attacks.catalogue import (
    CHECKS_VERSION,
    PROTOCOLS,
    attack_label,
    claim_name,
    is_given,
)
from dentbench.attacks.checks import Check
from dentbench.attacks.required_budgets import spent
from dentbench.compute.precision import PAYS, bfloat16_time
from dentbench.errors import DataError
from dentbench.evaluation import applicable, cascade, forecast, out_of_memory, sanity_checks
from dentbench.evaluation.claimed import require_fitting
from dentbench.evaluation.context import RunContext, RunOptions
from dentbench.evaluation.example_images import keep_gallery
from dentbench.evaluation.flag_checks import Stages
from dentbench.evaluation.fresh_judgement import (
    Judgement,
    Pristine,
    is_judged,
    is_stale,
    judgement,
    note_of,
)
from dentbench.evaluation.fresh_process import SERVER
from dentbench.evaluation.measurements import observations
from dentbench.evaluation.planted import planted
from dentbench.evaluation.progress import Progress, RunPlanned
from dentbench.evaluation.rounds import Reached, Rounds
from dentbench.evaluation.stage_outcomes import StageOutcomes
from dentbench.evaluation.subject import Subject
from dentbench.records import examples, per_class, results_csv
from dentbench.records.aggregate import static_cases, summarize
from dentbench.records.chance import chance_columns
from dentbench.records.checkpoint import RunFolder
from dentbench.records.claims import load_claim
from dentbench.records.judged import NOTE
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome, Record, spec_columns
from dentbench.records.provenance import provenance
from dentbench.records.stopping import Stopped
from dentbench.report import coupling
from dentbench.spec.evaluation import DefenseSpec, EvalSpec

_log = logging.getLogger(__name__)

SAME_NETWORK: Final = f"same-network-{CHECKS_VERSION}"
"""The note beside the outcomes that says on what kind of device the network was compared."""


@dataclass(frozen=True)
class _Ready:
    """What is known of a spec before it is run: its first checks, and which protocols can."""

    checks: tuple[Check, ...]
    natural: Check
    skipped: Mapping[str, str]
    protocols: tuple[str, ...]


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
        self.subject = subject
        self.pristine = Pristine(subject.network, given)
        self.stages = StageOutcomes(subject, options, progress, given)
        self.worker = self.stages.worker
        self._compared: set[Any] = set()
        self.context = RunContext(
            subject=subject,
            worker=self.worker,
            options=options,
            outcomes=self.outcomes,
            natural_given=self._natural_given,
            shared=self.stages.shared,
        )

    def run(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> list[Record]:
        """Return one record per spec, in order, written to the results file as they are made.

        A spec with a defense is attacked by every protocol, a static one by "published" alone,
        neither with the attack "none". A static one is evaluated before the defended ones when
        they are to be compared with it.
        """
        self.stages.plan(specs, protocols)
        self._advise_precision(specs)
        for spec in specs:
            self._require_sound(spec, protocols)
            if self.options.fresh:
                self._folder(spec).clear()
            if not self._is_compared(spec):
                self._folder(spec).save_note(SAME_NETWORK, self.worker.device.type)
        if self.pristine.data is not None and any(map(self._will_be_judged_again, specs)):
            SERVER.start()  # it loads its libraries while the attacks run
        ready = [self._prepared(spec, protocols) for spec in specs]
        self._tell_plan(specs, ready)
        reached = self._carried_out(specs, ready)
        return [self._record(*one) for one in zip(specs, ready, reached, strict=True)]

    def _advise_precision(self, specs: Sequence[EvalSpec]) -> None:
        """Say so where bf16 was asked for and is not faster on this device."""
        low = next((spec for spec in specs if spec.precision == "bf16"), None)
        if low is None:
            return
        images = self.subject.images[: low.batches.size].to(self.worker.device)
        with self.worker.counter.uncounted():
            ratio = bfloat16_time(self.worker.network, images, self.options.fetch.folder)
        if ratio is not None and ratio > PAYS:
            _log.warning(
                "bf16 takes %.2g times as long as fp32 on this device, so it does not pay; "
                "--precision fp32 is exact too",
                ratio,
            )

    def _prepared(self, spec: EvalSpec, protocols: Sequence[str]) -> _Ready:
        """Make the checks that come before everything else; return what is to be run."""
        attacked = not spec.attack.is_none
        # Before the defense is shown anything else; what they ask matters under attack only.
        checks = sanity_checks.probed(self.context, spec) if attacked else ()
        natural = self._natural_check(spec)
        wanted = (protocols if spec.defense else (PUBLISHED,)) if attacked else ()
        skipped = applicable.skipped(self.context, spec, wanted) if spec.defense else {}
        for name, reason in skipped.items():
            _log.warning("%s is skipped: %s", name, reason)
        run = tuple(name for name in wanted if name not in skipped)
        return _Ready(checks, natural, skipped, run)

    def _tell_plan(self, specs: Sequence[EvalSpec], ready: Sequence[_Ready]) -> None:
        """Tell the progress what is to be run, and how long that will take."""
        progress = self.stages.progress
        if progress is None:
            return
        protocols = {spec: one.protocols for spec, one in zip(specs, ready, strict=True)}
        planned = forecast.Run(
            self.worker, specs, protocols, self.stages.images_left, self.subject.published_robust
        )
        until = bool(self.options.schedule.until)
        plan = planned.plan(until_decided=until)
        text = ""
        if sum(plan.values()) > forecast.SHORT:
            text = planned.text(until_decided=until)
        progress(RunPlanned(passes=plan, text=text))

    def _carried_out(self, specs: Sequence[EvalSpec], ready: Sequence[_Ready]) -> list[Reached]:
        """Carry out the rounds of every spec; a static model goes as far as its defenses do."""
        reached: dict[int, Reached] = {}
        defended = [number for number, spec in enumerate(specs) if spec.defense is not None]
        alone = [number for number in range(len(specs)) if number not in defended]
        left = self.options.schedule.seconds_left
        for place, number in enumerate([*defended, *alone]):
            spec = specs[number]
            bases = [reached[one] for one in defended if specs[one].static.key() == spec.key()]
            if spec.defense is None and bases:
                reached[number] = _of_static(bases, ready[number])
                continue
            if left is not None:  # what is left is shared with the records to come
                left = self.options.schedule.seconds_left
                left = max(left or 0.0, 0.0) / (len(specs) - place)
            reached[number] = self._rounds(spec, ready[number], left).carry_out()
        return [reached[number] for number in range(len(specs))]

    def _rounds(self, spec: EvalSpec, ready: _Ready, seconds: float | None) -> Rounds:
        def draft(reached: Reached, thorough: bool) -> Record:
            return self._draft(spec, ready, reached, thorough=thorough)[0]

        return Rounds(
            self.stages, spec, ready.protocols, self.options.schedule, draft, seconds=seconds
        )

    def _require_sound(self, spec: EvalSpec, protocols: Sequence[str]) -> None:
        """Raise what is wrong with a spec before hours are spent."""
        there = len(self.subject.images)
        if spec.data.count != there:
            raise DataError(f"{spec.data.count} images are asked for, but {there} are there")
        with out_of_memory.raise_on_oom(f"the defense {spec.label}", self.worker.device):
            self.classifier(spec)
            self._require_same_network(spec)
        for name in filter(None, map(claim_name, protocols if spec.defense else ())):
            points = load_claim(self.options.results, name)
            require_fitting(points, self.subject.images, ThreatModel.of(spec.attack))

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

    def _record(self, spec: EvalSpec, ready: _Ready, reached: Reached) -> Record:
        """Make the record of what was reached, with all checks, and write it down."""
        record, counted = self._draft(spec, ready, reached, thorough=True)
        self._keep_for_reports(spec, counted)
        results_csv.append(self.options.results, record)
        return record

    def _draft(
        self, spec: EvalSpec, ready: _Ready, reached: Reached, *, thorough: bool
    ) -> tuple[Record, Stages]:
        """Return the record of what was reached, and the outcomes that it counts.

        ``thorough``: with what earlier runs completed too, the final points judged anew, and points
        planted where every protocol was run.
        """
        attacked = not spec.attack.is_none
        first = reached.batches
        run = self._completed(spec, reached) if thorough else [*reached.protocols]
        outcomes: dict[str, Sequence[BatchOutcome]] = {
            stage: self.stages.outcomes(spec, stage, first) for stage in (NATURAL, *run)
        }
        static = None
        if spec.defense is not None:
            static = self._static_outcomes(spec, [*outcomes], first)
        checks, counted, chances = [*ready.checks], outcomes, {}
        if spec.defense is not None and attacked and thorough:
            if {*ready.protocols} <= {*run}:
                offered = applicable.offered(self.context, spec)
                checks.append(planted(self.context, spec, run, offered))
            checks.append(sanity_checks.ordered(self.context, spec, run))
            again = self._judged_again(spec, outcomes)
            checks.append(again.check(outcomes))
            counted = again.applied(outcomes)
            if again.random and static is not None:
                draws = {stage: again.draws(stage) for stage in outcomes}
                confidence = reached.confidence
                chances = chance_columns(draws, static_cases(outcomes, static), confidence)
        summary = summarize(counted, static, separable=spec.separable) | chances
        record = Record(
            **spec_columns(spec),
            skipped=json.dumps(ready.skipped) if ready.skipped else None,
            **summary,
            decision_queries=queries_of(spec) if {"scores", "decision"} & {*run} else None,
            budgets=_budgets(spec, run) if attacked else None,
            checks=sanity_checks.column(
                checks, outcomes, summary["batch_mates"], spec, ready.natural
            ),
            static_checks=self._static_checks(spec, static, ready.natural)
            if static and attacked
            else None,
            **(observations(self.context, spec) if thorough else {}),
            **provenance(self.options.placement.devices[0]),
            attack_label=attack_label(spec.attack),
            source=json.dumps(self.options.source) if self.options.source else None,
        )
        if reached.stopped is not None:
            record = _marked(record, reached.stopped)
        return record, counted

    def _completed(self, spec: EvalSpec, reached: Reached) -> list[str]:
        """Return the protocols that were reached and those that earlier runs completed so far.

        In the catalogue's order, and those that are not in it last.
        """
        run = reached.protocols
        if spec.defense is None:
            return [*run]
        given = [*filter(is_given, run), *self._folder(spec).stages(is_given)]
        known = (*PROTOCOLS, *dict.fromkeys(given))
        first = reached.batches
        return [name for name in known if name in run or self.stages.is_complete(spec, name, first)]

    def _judged_again(
        self, spec: EvalSpec, outcomes: dict[str, Sequence[BatchOutcome]]
    ) -> Judgement:
        """Return what a defense that nobody asked anything says of the final points."""
        random = sanity_checks.found_random(self._folder(spec))
        draws = spec.protocols.draws_judged if random else 1
        folder = self._folder(spec)
        complete = note_of(spec, outcomes) == NOTE
        for stage, batches in outcomes.items() if complete else ():
            if is_stale(folder, stage, batches, draws):  # files were lost or taken away since
                folder.drop_note(f"{stage}/{NOTE}")
                outcomes[stage] = self.outcomes(spec, stage)
        keep = self.options.save_adversarial
        return judgement(self.context, self.pristine, spec, outcomes, draws=draws, keep_points=keep)

    def _static_outcomes(
        self, spec: EvalSpec, stages: Sequence[str], first: int
    ) -> dict[str, list[BatchOutcome]]:
        """Return the static model's outcomes, by stage, that the stages of a defense face.

        Its natural accuracy, its own published attack, and the counterparts of the stages, on the
        first batches.
        """
        compared = [NATURAL, *([PUBLISHED] if len(stages) > 1 else [])]
        compared += [stage for stage in stages if cascade.has_counterpart(spec, stage)]
        return {stage: self.stages.outcomes(spec.counterpart, stage, first) for stage in compared}

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
        judged = sum(len(outcome.correct) for outcome in outcomes[NATURAL])
        labels = self.subject.labels[:judged].tolist()
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
        return Evaluation(self.subject.given[0], self.options, self.stages.progress)

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
        return self.stages.outcomes(spec, stage)

    def classifier(self, spec: EvalSpec) -> Classifier:
        """Return what a spec attacks and judges: the network itself, or a defense around it."""
        return self.worker.classifier(spec)

    def _folder(self, spec: EvalSpec) -> RunFolder:
        return self.stages.folder(spec)


def _budgets(spec: EvalSpec, protocols: Sequence[str]) -> str:
    """Return the column ``budgets``: the published attack's, which the static model has too."""
    stages = dict.fromkeys((PUBLISHED, *protocols))
    return json.dumps({stage: spent(spec, stage) for stage in stages})


def _of_static(bases: Sequence[Reached], ready: _Ready) -> Reached:
    """Return how far a static model got with the defenses that are compared with it."""
    furthest = max(bases, key=lambda one: one.batches)
    stop = furthest.stopped
    if stop is not None:
        stop = None if stop.images == stop.of else replace(stop, level=None)
    return Reached(furthest.batches, ready.protocols, stop)


def _marked(record: Record, stop: Stopped) -> Record:
    """Return a record that says how its run stopped, with the interval that is valid there."""
    marked = replace(record, stopped=stop.to_json())
    paired = coupling.paired(marked) if stop.level is not None else None
    if paired is None:
        return marked
    interval = paired.interval
    return replace(marked, stopped=replace(stop, low=interval.low, high=interval.high).to_json())
