"""Run specs to records: map over declared batches, reduce to counts, write down.

For every missing outcome: adapt, attack, project, clip, judge afresh, write a file. Running the
same specs again finds nothing left to do; an interrupted run goes on at the first missing batch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import torch

from dentbench.attacks.base import Classifier
from dentbench.attacks.checks import Check
from dentbench.compute.backend import Engine
from dentbench.evaluation import applicable_protocols
from dentbench.evaluation.checks import sanity_checks
from dentbench.evaluation.context import RunContext, RunOptions
from dentbench.evaluation.estimates import duration
from dentbench.evaluation.estimates.time_forecast import TimeForecast, planned
from dentbench.evaluation.fresh_judgement.fork_server import SERVER
from dentbench.evaluation.fresh_judgement.pristine import Pristine
from dentbench.evaluation.fresh_judgement.stored import is_judged
from dentbench.evaluation.input_checks import first_answers, natural_accuracy
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.memory import out_of_memory
from dentbench.evaluation.preflight import Preflight
from dentbench.evaluation.progress.events import Progress
from dentbench.evaluation.record_maker import Ready, RecordMaker
from dentbench.evaluation.rounds import Reached, Rounds
from dentbench.evaluation.stage_outcomes import StageOutcomes
from dentbench.evaluation.workers.prepared_model import PreparedModel
from dentbench.evaluation.workers.worker import Worker
from dentbench.records import results_csv
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome, Record
from dentbench.spec.evaluation import DefenseSpec, EvalSpec

_log = logging.getLogger(__name__)

SAMPLE: Final = 32
"""The number of images on which engines are timed."""


class Evaluation:
    """Specs evaluated on the same inputs, whose model and data every spec of :meth:`run` names.

    ``given``: the objects that specs of defenses given from Python stand for.
    Raises :class:`~dentbench.errors.ModelError` or :class:`~dentbench.errors.DataError` when the
    network does not fit the images or the labels.
    """

    def __init__(
        self,
        inputs: RunInputs,
        options: RunOptions,
        progress: Progress | None = None,
        given: Mapping[DefenseSpec, Any] | None = None,
    ) -> None:
        self.options = options
        self.inputs = inputs
        self.pristine = Pristine(inputs.network, given)
        self._warned = False
        self.worker = Worker(_prepared(inputs, options, given))
        self.stages = StageOutcomes(self.worker, options, progress)
        self.context = RunContext(
            inputs=inputs,
            worker=self.worker,
            options=options,
            outcomes=self.outcomes,
            natural_given=self._natural_given,
            shared=self.stages.shared,
        )
        self._preflight = Preflight(self.context)
        self._records = RecordMaker(self.context, self.stages, self.pristine)

    def run(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> list[Record]:
        """Return one record per spec, in order, written to the results file as they are made.

        A spec with a defense is attacked by every protocol, a static spec by "published" alone,
        neither with the attack "none". A static spec is evaluated before defended specs when
        they are to be compared with it.
        """
        results_csv.require_usable(self.options.results)
        self.stages.plan(specs, protocols)
        self._preflight.check(specs, protocols)
        if self.pristine.data is not None and any(map(self._will_be_judged_again, specs)):
            SERVER.start()  # it loads its libraries while the attacks run
        ready = [self._prepared(spec, protocols) for spec in specs]
        self._tell_plan(specs, ready)
        reached = self._carried_out(specs, ready)
        return [self._record(*parts) for parts in zip(specs, ready, reached, strict=True)]

    def require_sound(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> None:
        """Refuse what :meth:`run` would refuse before its first attack; write nothing."""
        results_csv.require_usable(self.options.results)
        self._preflight.require_sound(specs, protocols)

    def _prepared(self, spec: EvalSpec, protocols: Sequence[str]) -> Ready:
        """Make the checks that come before everything else; return the spec's plan."""
        attacked = not spec.attack.is_none
        # Before the defense is shown anything else; these checks matter under attack only.
        checks = sanity_checks.probed(self.context, spec) if attacked else ()
        natural = self._natural_check(spec)
        wanted = (protocols if spec.defense else (PUBLISHED,)) if attacked else ()
        skipped = applicable_protocols.skipped(self.context, spec, wanted) if spec.defense else {}
        for name, reason in skipped.items():
            _log.warning("%s is skipped: %s", name, reason)
        run = tuple(name for name in wanted if name not in skipped)
        return Ready(checks, natural, skipped, run)

    def forecast(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> TimeForecast:
        """Return how long :meth:`run` is expected to take; nothing is attacked."""
        able = {
            spec: applicable_protocols.possible(self.context, spec, protocols) for spec in specs
        }
        return self._forecast(able)

    def _forecast(self, protocols: Mapping[EvalSpec, Sequence[str]]) -> TimeForecast:
        left, robust = self.stages.images_left, self.inputs.published_robust
        schedule = self.options.schedule
        random = applicable_protocols.random_ones(self.context, protocols)
        run = duration.Run(self.worker, [*protocols], protocols, left, robust, schedule, random)
        return run.forecast()

    def _tell_plan(self, specs: Sequence[EvalSpec], ready: Sequence[Ready]) -> None:
        """Announce the plan of the run, and how long it will take."""
        if self.stages.progress is None:
            return
        able = {spec: prepared.protocols for spec, prepared in zip(specs, ready, strict=True)}
        forecast = self._forecast(able)
        self.stages.progress(planned(forecast))

    def _carried_out(self, specs: Sequence[EvalSpec], ready: Sequence[Ready]) -> list[Reached]:
        """Carry out the rounds of every spec; a static model goes as far as its defenses do."""
        reached: dict[int, Reached] = {}
        defended = [number for number, spec in enumerate(specs) if spec.defense is not None]
        bases = {
            number: [at for at in defended if specs[at].static.key() == spec.key()]
            for number, spec in enumerate(specs)
            if spec.defense is None
        }
        own = [*defended, *(number for number, found in bases.items() if not found)]
        for place, number in enumerate(own):
            left = self.options.schedule.seconds_left
            if left is not None:  # the rest is shared with the records to come
                left = max(left, 0.0) / (len(own) - place)
            reached[number] = self._rounds(specs[number], ready[number], left).carry_out()
        for number, found in bases.items():
            if found:
                reached[number] = _of_static([reached[at] for at in found], ready[number])
        return [reached[number] for number in range(len(specs))]

    def _rounds(self, spec: EvalSpec, ready: Ready, seconds: float | None) -> Rounds:
        def draft(reached: Reached, thorough: bool) -> Record:
            return self._records.draft(spec, ready, reached, thorough=thorough)[0]

        return Rounds(
            self.stages, spec, ready.protocols, self.options.schedule, draft, seconds=seconds
        )

    def _will_be_judged_again(self, spec: EvalSpec) -> bool:
        if spec.defense is None or spec.attack.is_none:
            return False
        return not is_judged(self._folder(spec), NATURAL)

    def _record(self, spec: EvalSpec, ready: Ready, reached: Reached) -> Record:
        """Make the record of the batches reached, with all checks, and write it down."""
        record, counted = self._records.draft(spec, ready, reached, thorough=True)
        self._records.keep_for_reports(spec, counted)
        results_csv.append(self.options.results, record)
        return record

    def _natural_check(self, spec: EvalSpec) -> Check:
        """Compare the static model's natural accuracy with its expectation; may stop the run."""
        flags = [
            flag for outcome in self.outcomes(spec.static, NATURAL) for flag in outcome.correct
        ]
        expected, source = self.inputs.published_natural, "published"
        if self.inputs.expected_natural is not None:
            expected, source = self.inputs.expected_natural, "expected"
        check = sanity_checks.natural_accuracy(sum(flags), len(flags), expected, source)
        if self.inputs.known_hard:
            return check
        counts = sum(flags), len(flags)
        check, stops = sanity_checks.plausible(self.context, spec, check, *counts)
        sanity_checks.require_natural(check, force=self.options.force or not stops)
        if (check.passed is False or natural_accuracy.USUAL in check.sentence) and not self._warned:
            _log.warning("%s", check.sentence)
            self._warned = True
        return check

    @cached_property
    def _in_given_order(self) -> Evaluation:
        """The same images in the data set's own order; its outcomes are natural images alone."""
        assert self.inputs.given is not None
        return Evaluation(self.inputs.given[0], self.options, self.stages.progress)

    def _natural_given(self, spec: EvalSpec) -> int | None:
        """Return how many images are right in the given order, where the run has another.

        It is the natural pass of the run on the given order, which has it in common.
        """
        if self.inputs.given is None:
            return None
        given = replace(spec, data=self.inputs.given[1])
        outcomes = self._in_given_order.outcomes(given, NATURAL)
        return sum(flag for outcome in outcomes for flag in outcome.correct)

    def outcomes(self, spec: EvalSpec, stage: str) -> list[BatchOutcome]:
        """Return a stage's outcomes on all batches, computing and storing those missing."""
        return self.stages.outcomes(spec, stage)

    def classifier(self, spec: EvalSpec) -> Classifier:
        """Return the classifier that a spec attacks: the network itself, or a defense around it."""
        return self.worker.classifier(spec)

    def _folder(self, spec: EvalSpec) -> RunFolder:
        return self.stages.folder(spec)


def _of_static(bases: Sequence[Reached], ready: Ready) -> Reached:
    """Return how far a static model got with the defenses that are compared with it."""
    furthest = max(bases, key=lambda base: base.batches)
    stop = furthest.stopped
    if stop is not None:
        stop = None if stop.images == stop.of else replace(stop, level=None)
    return Reached(furthest.batches, ready.protocols, stop)


def _prepared(
    inputs: RunInputs, options: RunOptions, given: Mapping[DefenseSpec, Any] | None
) -> PreparedModel:
    """Return the model on the device of this process, computed in the fastest way."""
    placement = options.placement
    device = placement.devices[0]
    with out_of_memory.raise_on_oom("the model", device):
        tried = first_answers.require_network(inputs.network, inputs.images, device)
        if not (options.force or inputs.known_hard):
            shown = (inputs.images, inputs.labels, device, inputs.expected_natural)
            natural_accuracy.require_above_chance(tried, *shown)
        del tried
        engine = Engine.chosen(
            inputs.network,
            torch.device(device),
            inputs.images[:SAMPLE],
            placement.compiling,
            None if options.untimed else options.fetch.folder,
        )
    return PreparedModel(inputs, device, engine, given)
