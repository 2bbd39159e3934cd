"""The one path from specs to records: map over declared batches, reduce to counts, write down.

For every missing outcome: adapt, attack, project, clip, judge afresh, write one file. Running the
same specs again finds nothing left to do; an interrupted run goes on at the first missing batch.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dentbench import cascade, examine, store
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import Classifier, ThreatModel, judge, offers
from dentbench.attacks.catalogue import PROTOCOLS, attack_label
from dentbench.attacks.cost import stage_passes
from dentbench.attacks.protocols import Situation, load_protocol
from dentbench.attacks.soundness import Check
from dentbench.attacks.views import CallCounter, CountedNetwork, SeededDefense
from dentbench.checkpoint import RunFolder
from dentbench.defending import Defenders
from dentbench.engine import prepared
from dentbench.errors import DataError, ModelError
from dentbench.observe import observations
from dentbench.outcome import NATURAL, BatchOutcome, Record, spec_columns, summarize, worst_case
from dentbench.provenance import provenance
from dentbench.spec import (
    AttackSpec,
    DataSpec,
    DefenseSpec,
    EvalSpec,
    derive_seed,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the specs name, loaded: the network and the slice of images.

    ``images`` (N, C, H, W) float32 in [0, 1]; ``labels`` (N,) int64. ``given``: where they are in
    another order than the data set's own, the same images in that one, and their spec.
    ``published_natural``: the natural accuracy, in percent, published of the network on this data
    set; ``expected_natural``: what its owner expects, which counts instead.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    given: tuple[Subject, DataSpec] | None = None
    published_natural: float | None = None
    expected_natural: float | None = None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; none of it changes a number.

    ``results``: the results folder. ``fresh``: forget stored outcomes of these specs first.
    ``save_adversarial``: keep the final points of every batch and protocol. ``measure_time``:
    time every defense against the static model. ``diagnostics``: keep what every adaptation did.
    ``force``: go on where natural accuracy is not the published one.
    """

    results: Path
    device: str = "cpu"
    fresh: bool = False
    save_adversarial: bool = False
    measure_time: bool = False
    diagnostics: bool = False
    force: bool = False


class Progress(Protocol):
    """Who is told how a run goes on; counts are single-image passes through the network."""

    def begin(self, title: str, passes: int) -> None:
        """A stage begins that will cost at most so many passes."""

    def advance(self, passes: int) -> None:
        """So many passes of the stage are done in all."""

    def unit_done(self, done: int, units: int, correct: int, judged: int) -> None:
        """A batch of the stage is finished; so many images are right so far."""


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
        self.device = torch.device(options.device)
        self.counter = CallCounter()
        self.subject = subject
        network = prepared(subject.network, self.device, subject.images[:1])
        self.network = CountedNetwork(network, self.counter)
        self.classes = _count_classes(network, subject, self.device)
        self.defenders = Defenders(self.network, subject.images, given)
        self.shared: dict[Any, Any] = {}  # what specs that differ in the attack have in common

    def run(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> list[Record]:
        """Return one record per spec, in order, written to the results file as they are made.

        A spec with a defense is attacked by every protocol; a static one by "published" alone,
        and it is evaluated before the defended ones when they are to be compared with it.
        """
        found = len(self.subject.images)
        for spec in specs:
            if spec.data.count != found:
                raise DataError(f"{spec.data.count} images are asked for, but {found} are there")
            self.classifier(spec)  # what the defense refuses is told before hours are spent
            if self.options.fresh:
                self._folder(spec).clear()
        return [self._record(spec, protocols) for spec in specs]

    def _record(self, spec: EvalSpec, protocols: Sequence[str]) -> Record:
        checks = examine.probed(self, spec)  # before the defense is shown anything else
        natural = self._natural_check(spec)
        skipped = self.skipped(spec, protocols) if spec.defense else {}
        run = [name for name in protocols if name not in skipped] if spec.defense else ["published"]
        for name, reason in skipped.items():
            _log.warning("%s is skipped: %s", name, reason)
        stages = [NATURAL, *run]
        outcomes = {stage: self.outcomes(spec, stage) for stage in stages}
        static = None
        if spec.defense is not None:
            baseline = baseline_of(spec)
            static = worst_case(
                {stage: self.outcomes(baseline, stage) for stage in (NATURAL, "published")}
            )
        summary = summarize(outcomes, static)
        record = Record(
            **spec_columns(spec),
            skipped=json.dumps(skipped) if skipped else None,
            **summary,
            checks=examine.column(checks, summary, spec, natural),
            **observations(self, spec),
            **provenance(self.options.device),
            attack_label=attack_label(spec.attack),
        )
        store.append(self.options.results, record)
        return record

    def _natural_check(self, spec: EvalSpec) -> Check:
        """Compare the static model's natural accuracy with what it should be; may stop the run."""
        flags = [
            flag
            for outcome in self.outcomes(baseline_of(spec), NATURAL)
            for flag in outcome.correct
        ]
        expected, source = self.subject.published_natural, "published"
        if self.subject.expected_natural is not None:
            expected, source = self.subject.expected_natural, "expected"
        check = examine.natural_accuracy(sum(flags), len(flags), expected, source)
        examine.require_natural(check, force=self.options.force)
        return check

    def outcomes(self, spec: EvalSpec, stage: str) -> list[BatchOutcome]:
        """Return a stage's outcomes on all batches, computing and storing what is missing."""
        units = spec.batches.ranges(spec.data.count)
        found = [self._stored(spec, stage, unit) for unit in range(len(units))]
        missing = [unit for unit, outcome in enumerate(found) if outcome is None]
        if not missing:
            return [outcome for outcome in found if outcome is not None]
        if stage != NATURAL:
            self.outcomes(spec, NATURAL)
            if PROTOCOLS[stage].needs_static:
                self.outcomes(baseline_of(spec), "published")
            for earlier in cascade.earlier_stages(spec, stage):
                self.outcomes(spec, earlier)
        outcomes = {unit: outcome for unit, outcome in enumerate(found) if outcome is not None}
        with self._watched(spec, stage, [units[unit] for unit in missing]):
            for done, unit in enumerate(missing, 1):
                outcomes[unit] = self._compute(spec, stage, unit, units[unit])
                self._tell(done, len(missing), [outcomes[u] for u in missing[:done]])
        return [outcomes[unit] for unit in range(len(units))]

    def _stored(self, spec: EvalSpec, stage: str, unit: int) -> BatchOutcome | None:
        keeps = self._keeps_points(spec, stage)
        return self._folder(spec).load(stage, unit, with_points=keeps)

    def _keeps_points(self, spec: EvalSpec, stage: str) -> bool:
        # The static model's points are what transfer judges, whoever asks for it and when.
        shared = spec.defense is None and stage == "published"
        shared = shared or cascade.keeps_points(spec, stage)
        return shared or (self.options.save_adversarial and stage != NATURAL)

    def _compute(self, spec: EvalSpec, stage: str, unit: int, images: range) -> BatchOutcome:
        """Carry out one stage on one batch and write its outcome down."""
        natural = (replace(spec, attack=AttackSpec()).key(), unit)  # any attack has the same
        if stage == NATURAL and natural in self.shared:
            known: BatchOutcome = self.shared[natural]
            self._folder(spec).save(known, None)
            return known
        rows = slice(images.start, images.stop)
        x = self.subject.images[rows].to(self.device)
        y = self.subject.labels[rows].to(self.device)
        forwards, backwards = self.counter.forwards, self.counter.backwards
        started = time.perf_counter()
        seed = derive_seed(spec.seed, "defense", stage, unit)
        defense = SeededDefense(self.classifier(spec, unit), seed, self.device)
        if stage == NATURAL:
            points, judged = x, judge_in_batches(defense, x, y, spec.batches.size)
            result = AttackResult(x, judged, tuple("" if c else NATURAL for c in judged.tolist()))
            correct = judged
        else:
            situation = self._situation(spec, stage, unit, x, y, defense)
            result = load_protocol(stage)(situation)
            points = ThreatModel.of(spec.attack).project(result.points, x)
            judged = judge_in_batches(defense, points, y, spec.batches.size)
            correct = cascade.corrected(judged, situation.settled_by, result.elsewhere)
        outcome = BatchOutcome(
            stage=stage,
            index=unit,
            correct=tuple(correct.tolist()),
            attack_correct=tuple(result.robust.tolist()),
            broken_by=result.broken_by,
            forwards=self.counter.forwards - forwards,
            backwards=self.counter.backwards - backwards,
            seconds=time.perf_counter() - started,
            judged=tuple(judged.tolist()),
            details=result.details,
        )
        keep = self._keeps_points(spec, stage)
        self._folder(spec).save(outcome, points.cpu().numpy() if keep else None)
        if stage == NATURAL:
            self.shared[natural] = outcome
        return outcome

    def _situation(
        self, spec: EvalSpec, stage: str, unit: int, x: Tensor, y: Tensor, defense: Classifier
    ) -> Situation:
        """Gather what a protocol may use on one batch."""
        natural = self._stored(spec, NATURAL, unit)
        assert natural is not None, "the natural stage comes first"
        static_points = None
        if PROTOCOLS[stage].needs_static:
            folder = self._folder(baseline_of(spec))
            static_points = torch.from_numpy(folder.load_points("published", unit)).to(self.device)
        others = cascade.neighbours(spec, unit)
        return Situation(
            spec=spec,
            unit=unit,
            images=x,
            labels=y,
            natural=torch.tensor(natural.correct, device=self.device),
            classes=self.classes,
            defense=defense,
            static_points=static_points,
            network=self.network,
            others=self.subject.images[others].to(self.device),
            other_labels=self.subject.labels[others].to(self.device),
            with_steps=self._with_steps(spec, unit),
            **cascade.inheritance(self._folder(spec), spec, stage, unit, self.device),
        )

    def _with_steps(
        self, spec: EvalSpec, unit: int | None = None
    ) -> Callable[[int], Classifier] | None:
        """Return what makes the defense with fewer steps, if there are fewer."""
        defense = spec.defense
        if defense is None or defense.steps < 2:
            return None
        return lambda steps: self.classifier(replace(spec, defense=defense.with_steps(steps)), unit)

    def offers(self, spec: EvalSpec) -> frozenset[str]:
        """Return what the defense has beside logits, as protocols ask for it."""
        found = offers(self.classifier(spec))
        if examine.found_random(self, spec):
            found |= {"random"}
        return found | {"with_steps"} if self._with_steps(spec) else found

    def skipped(self, spec: EvalSpec, protocols: Sequence[str]) -> dict[str, str]:
        """Return the protocols that cannot attack a spec's defense, with the reason of each."""
        able = self.offers(spec)
        reasons = {name: PROTOCOLS[name].reason_to_skip(spec, able) for name in protocols}
        return {name: reason for name, reason in reasons.items() if reason}

    def classifier(self, spec: EvalSpec, unit: int | None = None) -> Classifier:
        """Return what a spec attacks and judges: the network itself, or a defense around it.

        ``unit``: in which unit of work, for a defense that goes on from batch to batch.
        """
        return self.defenders.of(spec, unit)

    def _folder(self, spec: EvalSpec) -> RunFolder:
        return RunFolder(self.options.results, spec)

    @contextmanager
    def _watched(self, spec: EvalSpec, stage: str, batches: Sequence[range]) -> Iterator[None]:
        """Tell the progress what is being run, and count its passes."""
        if self.progress is None:
            yield
            return
        progress = self.progress
        passes = stage_passes(spec, stage, self.classes)
        images = sum(map(len, batches))
        progress.begin(
            f"{spec.model.name} {spec.label} {stage}",
            (passes.forwards + passes.backwards) * images,
        )
        start = self.counter.forwards + self.counter.backwards
        self.counter.listen = lambda: progress.advance(
            self.counter.forwards + self.counter.backwards - start
        )
        try:
            yield
        finally:
            self.counter.listen = lambda: None

    def _tell(self, done: int, units: int, outcomes: Sequence[BatchOutcome]) -> None:
        if self.progress is not None:
            flags = [flag for outcome in outcomes for flag in outcome.correct]
            self.progress.unit_done(done, units, sum(flags), len(flags))


def baseline_of(spec: EvalSpec) -> EvalSpec:
    """Return the spec of the static model."""
    return replace(spec, defense=None)


def judge_in_batches(classify: Classifier, points: Tensor, labels: Tensor, size: int) -> Tensor:
    """Return, image by image, whether ``classify`` is right, shown batches of ``size`` in order."""
    parts = [
        judge(classify, x, y) for x, y in zip(points.split(size), labels.split(size), strict=True)
    ]
    return torch.cat(parts)


@torch.no_grad()
def _count_classes(network: nn.Module, subject: Subject, device: torch.device) -> int:
    """Return how many classes the network has, after checking that it fits the data."""
    shape = tuple(subject.images.shape[1:])
    try:
        logits = network(subject.images[:1].to(device))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"the model does not take images of shape {shape}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError("the model does not answer with logits of shape (images, classes)")
    classes = logits.shape[1]
    for label in (int(subject.labels.min()), int(subject.labels.max())):
        if not 0 <= label < classes:
            raise DataError(f"label {label} is in the data, but the model has {classes} classes")
    return classes
