"""Make a record: reduce outcomes to counts, with checks and measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dentbench.attacks.budget import queries_of
from dentbench.attacks.catalogue import BLACK_BOXES, PROTOCOLS, attack_label
from dentbench.attacks.checks import Check
from dentbench.attacks.protocol_cards import is_given
from dentbench.attacks.required_budgets import spent
from dentbench.evaluation import applicable_protocols, cascade
from dentbench.evaluation.checks import sanity_checks
from dentbench.evaluation.checks.flag_checks import Stages
from dentbench.evaluation.checks.gained_images import gained_images, lost_images
from dentbench.evaluation.checks.planted import planted
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.fresh_judgement.judgement import Judgement
from dentbench.evaluation.fresh_judgement.pristine import Pristine
from dentbench.evaluation.fresh_judgement.stored import is_stale, load_or_judge, note_of
from dentbench.evaluation.measurements.example_images import keep_gallery
from dentbench.evaluation.measurements.measurements import observations
from dentbench.evaluation.rounds import Reached
from dentbench.evaluation.stage_outcomes import StageOutcomes
from dentbench.records import examples, per_class
from dentbench.records.aggregate import static_cases, summarize, worst_case
from dentbench.records.chance import chance_columns
from dentbench.records.judged import NOTE
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome, Record, spec_columns
from dentbench.records.provenance import provenance
from dentbench.records.stopping import Stopped
from dentbench.report import coupling
from dentbench.spec.evaluation import EvalSpec


@dataclass(frozen=True)
class Ready:
    """A spec before its run: its first checks, and the protocols that can attack it."""

    checks: tuple[Check, ...]
    natural: Check
    skipped: Mapping[str, str]
    protocols: tuple[str, ...]


class RecordMaker:
    """Makes the records of a run; ``pristine``: the network as it was before it was asked."""

    def __init__(self, context: RunContext, stages: StageOutcomes, pristine: Pristine) -> None:
        self.context = context
        self.stages = stages
        self.pristine = pristine

    def draft(
        self, spec: EvalSpec, ready: Ready, reached: Reached, *, thorough: bool
    ) -> tuple[Record, Stages]:
        """Return the record of the batches reached, and the outcomes that it counts.

        ``thorough``: the final points judged anew, and points planted where every protocol was run.
        Stages of earlier runs and those that a cascade runs first count too, but for the looks of a
        run that may stop.
        """
        attacked, first = not spec.attack.is_none, reached.batches
        whole = thorough or not self.context.options.schedule.until
        run = self._completed(spec, reached) if whole else [*reached.protocols]
        outcomes: dict[str, Sequence[BatchOutcome]] = {
            stage: self.stages.outcomes(spec, stage, first) for stage in (NATURAL, *run)
        }
        defended = spec.defense is not None
        static = self._static_outcomes(spec, [*outcomes], first) if defended else None
        checks, counted, chances = [*ready.checks], outcomes, {}
        if static is not None and attacked and thorough:
            checks += self._late_checks(spec, ready, run)
            again = self._judged_again(spec, outcomes)
            checks.append(again.check(outcomes))
            counted = again.applied(outcomes)
            cases = static_cases(counted, static)
            chances = _chances(again, static_cases(outcomes, static), [*outcomes], reached)
            if not again.random:
                worst = worst_case(counted)
                checks.append(gained_images(self.context, spec, worst, cases, run))
                checks.append(lost_images(self.context, spec, worst, cases))
        summary = summarize(counted, static, separable=spec.separable) | chances
        mates, natural = summary["batch_mates"], ready.natural
        record = Record(
            **spec_columns(spec),
            **summary,
            skipped=_json(ready.skipped),
            decision_queries=queries_of(spec) if {*BLACK_BOXES} & {*run} else None,
            budgets=_budgets(spec, run) if attacked else None,
            checks=sanity_checks.column(checks, outcomes, mates, spec, natural),
            static_checks=(
                self._static_checks(spec, static, natural, thorough=thorough)
                if static and attacked
                else None
            ),
            **(observations(self.context, spec) if thorough else {}),
            **provenance(self.context.options.placement.devices[0]),
            attack_label=attack_label(spec.attack),
            source=_json(self.context.options.source),
        )
        return (_marked(record, reached.stopped) if reached.stopped else record), counted

    def _late_checks(self, spec: EvalSpec, ready: Ready, run: Sequence[str]) -> Iterator[Check]:
        """Make the checks that need the protocols run: "planted", where all were, and "order"."""
        if {*ready.protocols} <= {*run}:
            offered = applicable_protocols.offered(self.context, spec)
            yield planted(self.context, spec, run, offered)
        yield sanity_checks.ordered(self.context, spec, run)

    def _completed(self, spec: EvalSpec, reached: Reached) -> list[str]:
        """Return the protocols that were reached and those that earlier runs completed so far.

        In the catalogue's order; protocols outside of it come last.
        """
        run = reached.protocols
        if spec.defense is None:
            return [*run]
        given = [*filter(is_given, run), *self.stages.folder(spec).stages(is_given)]
        ordered = (*PROTOCOLS, *dict.fromkeys(given))
        first = reached.batches
        return [
            name for name in ordered if name in run or self.stages.is_complete(spec, name, first)
        ]

    def _judged_again(
        self, spec: EvalSpec, outcomes: dict[str, Sequence[BatchOutcome]]
    ) -> Judgement:
        """Return a new defense's judgement of the final points."""
        random = sanity_checks.found_random(self.stages.folder(spec))
        draws = spec.protocols.draws_judged if random else 1
        folder = self.stages.folder(spec)
        complete = note_of(spec, outcomes) == NOTE
        for stage, batches in outcomes.items() if complete else ():
            if is_stale(folder, stage, batches, draws):  # files were lost or taken away since
                folder.drop_note(f"{stage}/{NOTE}")
                outcomes[stage] = self.stages.outcomes(spec, stage)
        keep = self.context.options.save_adversarial
        judgement = load_or_judge(
            self.context, self.pristine, spec, outcomes, draws=draws, keep_points=keep
        )
        return replace(judgement, declared_random=sanity_checks.is_declared_random(spec))

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

    def _static_checks(
        self, spec: EvalSpec, outcomes: Stages, natural: Check, *, thorough: bool
    ) -> str:
        """Return the static model's own checks that a verdict on a defense needs.

        ``thorough``: its final points are judged anew too, where no defense was made: code of a
        defense may have changed what the network answers in this process.
        """
        checks = [*sanity_checks.probed(self.context, spec.static)]
        if thorough:
            alone = spec.counterpart
            kept = {
                stage: batches
                for stage, batches in outcomes.items()
                if stage == NATURAL or cascade.keeps_points(alone, stage)
            }
            again = load_or_judge(
                self.context, self.pristine, alone, kept, draws=1, keep_points=True
            )
            checks.append(again.check(kept))
        return sanity_checks.static_column(
            sanity_checks.column(checks, outcomes, None, spec.static, natural)
        )

    def keep_for_reports(
        self, spec: EvalSpec, outcomes: Mapping[str, Sequence[BatchOutcome]]
    ) -> None:
        """Keep the counts by class and, where points are saved, a few images for the eye."""
        judged = sum(len(outcome.correct) for outcome in outcomes[NATURAL])
        labels = self.context.inputs.labels[:judged].tolist()
        breakdown = per_class.break_down(outcomes, labels, self.context.worker.classes)
        changed = per_class.save(self.stages.folder(spec), breakdown)
        if self.context.options.save_adversarial and (
            changed or not self.stages.folder(spec).has(examples.FILE)
        ):
            keep_gallery(self.context, spec, outcomes)


def _json(value: Mapping[str, Any] | None) -> str | None:
    return json.dumps(value) if value else None


def _chances(
    again: Judgement,
    static: Mapping[str, Sequence[bool]],
    stages: Sequence[str],
    reached: Reached,
) -> dict[str, Any]:
    """Return the columns of a defense that answers by chance; none of another."""
    if not again.random:
        return {}
    draws = {stage: again.draws(stage) for stage in stages}
    return chance_columns(draws, static, reached.confidence)


def _budgets(spec: EvalSpec, protocols: Sequence[str]) -> str:
    """Return the column ``budgets``: the published attack's, which the static model has too."""
    stages = dict.fromkeys((PUBLISHED, *protocols))
    return json.dumps({stage: spent(spec, stage) for stage in stages})


def _marked(record: Record, stop: Stopped) -> Record:
    """Return a record that says how its run stopped, with the interval that is valid there."""
    left = tuple(name for name in stop.not_run if name not in record.protocol_counts)
    stop = replace(stop, not_run=left)  # an earlier run may have been through with some
    marked = replace(record, stopped=stop.to_json())
    paired = coupling.paired(marked) if stop.level is not None else None
    if paired is None:
        return marked
    interval = paired.interval
    return replace(marked, stopped=replace(stop, low=interval.low, high=interval.high).to_json())
