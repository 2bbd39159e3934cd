"""Carry out a unit of work, from task to outcome, in this process or in another.

A worker has the model and the images; a task names a stage and a batch, and carries its
inheritance from the stages before it. Nothing is read or written here: that is the runner's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dentbench.adapt.dent import Dent
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.budget import POISONED
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.protocols.base import AttackContext, load_protocol
from dentbench.attacks.rng import SeededDefense
from dentbench.attacks.sampled import Sampled
from dentbench.compute.precision import tensor_float32
from dentbench.containment import torch_settings_kept
from dentbench.defenses.build import dent_of
from dentbench.errors import ModelError
from dentbench.evaluation import cascade
from dentbench.evaluation.input_checks import first_answers, same_network
from dentbench.evaluation.input_checks.reference import FEW, Reference
from dentbench.evaluation.workers.judging import (
    error_in_batch,
    judge_in_batches,
    judged_logits,
    norms,
    places,
    require_answers,
    right_in_all,
)
from dentbench.evaluation.workers.micro_batcher import MicroBatcher
from dentbench.evaluation.workers.prepared_model import PreparedModel
from dentbench.records.checkpoint import Points, sha256_of
from dentbench.records.outcome import NATURAL, BatchOutcome
from dentbench.spec.evaluation import DefenseSpec, DentSpec, EvalSpec, derive_seed


@dataclass(frozen=True, kw_only=True)
class Task:
    """A stage on a unit of work (a declared batch), with its inheritance from other stages.

    ``natural`` (B flags): which images are right without an attack; empty for the natural stage
    itself. ``claimed_points`` (B, C, H, W): those of a file, where they are judged.
    ``static_points`` (B, C, H, W): the static model's adversarial points, where the
    protocol needs them. ``inherited``: from the stages before it in a cascade. ``keep``: whether
    the final points are wanted back. ``random``: whether the defense answers by chance.
    ``at_a_time``: how many images there is memory for at a time, where that is less than a batch.
    """

    spec: EvalSpec
    stage: str
    unit: int
    natural: tuple[bool, ...] = ()
    static_points: Points | None = None
    claimed_points: Points | None = None
    inherited: cascade.Inheritance = cascade.NOTHING
    keep: bool = False
    random: bool = False
    at_a_time: int | None = None


@dataclass(frozen=True)
class _Attacked:
    """An attack on a batch, judged afresh.

    ``batches`` (B, C, H, W): points and witnesses, in the ball. ``judged`` (B,): whether the
    defense is right at the points; ``correct`` (B,): in earlier stages and witnesses too. Whether
    it ``answers`` (B,) with finite numbers. ``changed``: how many judgements lower precision
    changed, where the attack was computed in it. ``again``: how many images the defense was asked
    about again, after the attack, and how many answers had changed.
    """

    result: AttackResult
    batches: Sequence[Tensor]
    judged: Tensor
    correct: Tensor
    answers: Tensor
    changed: int | None = None
    again: tuple[int, int] | None = None


class Worker:
    """Carries out tasks with a prepared model and its images, on its device."""

    def __init__(self, model: PreparedModel) -> None:
        self.model = model
        self.blueprint = model.blueprint
        self.inputs = model.inputs
        self.micro_batcher = MicroBatcher(model)
        self.device = model.device
        self.counter = model.counter
        self.network = model.network
        self.classes = model.classes
        self._references: dict[int, Reference | None] = {}

    def classifier(self, spec: EvalSpec, unit: int | None = None) -> Classifier:
        """Return the classifier that a spec attacks: the network itself, or a defense around it.

        ``unit``: in which unit of work, for a defense that goes on from batch to batch.
        """
        return self.shown(spec, self.model.defense_cache.of(spec, unit))

    def shown(self, spec: EvalSpec, classify: Classifier) -> Classifier:
        """Return a classifier of a spec, in parts where there is no room for all of a batch."""
        return self.micro_batcher.shown(spec, classify)

    def require_usable(self, spec: EvalSpec) -> None:
        """Raise :class:`~dentbench.errors.ModelError` for a defense that fails on two images."""
        defense = spec.defense  # a user's was tried when it was made, before it can remember
        if defense is None or (isinstance(defense, DefenseSpec) and defense.sha256):
            return

        def make() -> Any:
            if isinstance(defense, DefenseSpec):
                return self.model.defense_cache.make(spec)
            return Dent(self.network, defense.with_steps(min(defense.steps, 1)))

        name = defense.name if isinstance(defense, DefenseSpec) else "dent"
        few = self.inputs.images[: first_answers.FEW].to(self.device)
        with self.counter.uncounted():
            first_answers.require_defense(name, make, few, self.classes)
            if isinstance(defense, DentSpec) and defense.mode == "instance":
                first_answers.require_adaptation(self.model.defense_cache.make(spec), few)

    def require_same_network(self, spec: EvalSpec) -> None:
        """Raise :class:`~dentbench.errors.ModelError` unless a spec is of the network handed in.

        The prepared network is compared with it, and dent's layers where there are some.
        """
        if self.network.path == "broken":
            return  # it has no gradient to be compared, and dent refuses it when it is to adapt
        size = spec.batches.size if spec.batches.batching == "declared" else FEW
        if size not in self._references:
            images = self.inputs.images[:size].to(self.device)
            with torch_settings_kept():
                self._references[size] = Reference.of(self.inputs.network, images)
        reference, dent = self._references[size], dent_of(spec.defense)
        if reference is not None and dent is None:
            same_network.require_same_network(reference, self.network.network)
        elif reference is not None and dent is not None:
            same_network.require_same_in_dent(reference, self.network.network, dent)

    def with_steps(
        self, spec: EvalSpec, unit: int | None = None
    ) -> Callable[..., Classifier] | None:
        """Return the function that makes the defense with fewer steps, if there are fewer.

        It is called with their number, and with ``larger`` for steps that go as far in all.
        """
        defense = spec.defense
        if defense is None or defense.steps < 2:
            return None
        attacked = self.model.attacked(spec)

        def make(steps: int, *, larger: bool = False) -> Classifier:
            fewer = defense.with_larger_steps(steps) if larger else defense.with_steps(steps)
            return self.shown(spec, attacked.of(replace(spec, defense=fewer), unit))

        return make

    def carry_out(self, task: Task) -> tuple[BatchOutcome, Points | None]:
        """Return the outcome of a task: adapt, attack, project, clip, judge afresh; and points.

        Raises :class:`~dentbench.errors.ModelError`, with the batch named, for natural images
        without an answer, and :class:`~dentbench.errors.DeviceMemoryError` for a batch that does
        not fit into memory.
        """
        spec, units = task.spec, task.spec.batches.ranges(task.spec.data.count)
        self.micro_batcher.learn(spec, task.at_a_time)

        def work() -> tuple[BatchOutcome, Points | None]:
            with self.model.adaptations:
                return self._carried_out(task, units[task.unit])

        try:
            return self.micro_batcher.fit(spec, task.stage, work)
        except ModelError as error:
            raise error_in_batch(error, spec, task.stage, task.unit) from error

    def _carried_out(self, task: Task, images: range) -> tuple[BatchOutcome, Points | None]:
        spec = task.spec
        x = self.inputs.images[images.start : images.stop].to(self.device)
        y = self.inputs.labels[images.start : images.stop].to(self.device)
        forwards, backwards = self.counter.forwards, self.counter.backwards
        started = time.perf_counter()
        seed = derive_seed(spec.seed, "defense", task.stage, task.unit)
        defense = SeededDefense(self.classifier(spec, task.unit), seed, self.device)
        attacked = self._attacked(task, x, y, defense, seed)
        points, size = attacked.batches[0], spec.batches.size
        static_correct = self._static_correct(task, attacked.batches, y)
        rights: tuple[int, ...] = ()
        if task.random and cascade.keeps_points(spec, task.stage):
            draws = range(spec.protocols.draws_judged)
            results = [judge_in_batches(defense, points, y, size)[0] for _ in draws]
            rights = tuple(torch.stack(results).sum(0).tolist())
        outcome = BatchOutcome(
            stage=task.stage,
            index=task.unit,
            correct=tuple(attacked.correct.tolist()),
            attack_correct=tuple(attacked.result.robust.tolist()),
            broken_by=attacked.result.broken_by,
            forwards=self.counter.forwards - forwards,
            backwards=self.counter.backwards - backwards,
            seconds=time.perf_counter() - started,
            judged=tuple(attacked.judged.tolist()),
            changed=attacked.changed,
            asked_again=attacked.again and attacked.again[0],
            unlike=attacked.again and attacked.again[1],
            static_correct=static_correct,
            rights=rights,
            unanswered=() if bool(attacked.answers.all()) else tuple((~attacked.answers).tolist()),
            points_sha256=sha256_of(points.cpu().numpy()) if spec.defense is not None else "",
            details=attacked.result.details,
            versions=cascade.versions(spec, task.stage),
            indexes=tuple(places(self.inputs, spec)[images.start : images.stop]),
            labels=tuple(y.tolist()),
            **norms(points - x),
        )
        return outcome, points.cpu().numpy() if task.keep else None

    def _attacked(
        self, task: Task, x: Tensor, y: Tensor, defense: SeededDefense, seed: int
    ) -> _Attacked:
        """Attack images ``x`` (B, C, H, W) as the task says, and judge the final points afresh."""
        spec, size = task.spec, task.spec.batches.size
        if task.stage == NATURAL or spec.attack.eps == 0:
            # A ball of radius 0 has the image alone, which was judged before.
            judged = torch.tensor(task.natural, device=self.device)
            answers = torch.ones_like(judged)
            if task.stage == NATURAL:
                judged, answers = judge_in_batches(defense, x, y, size)
                require_answers(spec, task.stage, answers)
            none = AttackResult(x, judged, tuple("" if c else NATURAL for c in judged.tolist()))
            return _Attacked(none, batches=[x], judged=judged, correct=judged, answers=answers)
        attacked = defense
        if spec.precision != "fp32":
            low = self.shown(spec, self.model.attacked(spec).of(spec, task.unit))
            attacked = SeededDefense(low, seed, self.device)
        sampled, threat = Sampled(attacked, seed), ThreatModel.of(spec.attack)
        context = self._attack_context(task, x, y, sampled)
        with tensor_float32(spec.precision == "tf32"):
            result = load_protocol(task.stage)(context)
            batches = [threat.project(batch, x) for batch in (result.points, *result.witnesses)]
            judged, answers = judge_in_batches(attacked, batches[0], y, size)
        changed = None
        if attacked is not defense:
            rounded = judged
            judged, answers = judge_in_batches(defense, batches[0], y, size)
            changed = int((judged != rounded).sum())
        require_answers(spec, task.stage, answers)
        correct = cascade.corrected(judged, context.settled_by, result.elsewhere)
        correct &= right_in_all(defense, batches[1:], y, size)
        return _Attacked(
            result,
            batches=batches,
            judged=judged,
            correct=correct,
            answers=answers,
            changed=changed,
            again=self._asked_again(task, sampled),
        )

    def _static_correct(
        self, task: Task, batches: Sequence[Tensor], labels: Tensor
    ) -> tuple[bool, ...]:
        """Return whether the static model is right at all points found on a defense, or ()."""
        spec = task.spec
        if spec.defense is None or task.stage == NATURAL:
            return ()
        self.micro_batcher.learn(spec.counterpart, self.micro_batcher.size(spec))
        static = self.classifier(spec.counterpart)
        return tuple(right_in_all(static, batches, labels, spec.batches.size).tolist())

    def _asked_again(self, task: Task, sampled: Sampled) -> tuple[int, int] | None:
        """Ask some of the attack's questions again, unless answers are random; it costs nothing."""
        if task.random:
            return None
        with tensor_float32(task.spec.precision == "tf32"), self.counter.uncounted():
            return sampled.asked_again(lambda ask, x: judged_logits(ask, x, len(x)))

    def _attack_context(
        self, task: Task, x: Tensor, y: Tensor, defense: Classifier
    ) -> AttackContext:
        """Gather a protocol's context on a batch."""
        spec, unit = task.spec, task.unit
        others = cascade.neighbours(spec, unit)
        inherited = task.inherited
        needed = PROTOCOLS[task.stage].needs_static
        assert (task.static_points is not None) == needed
        assert spec.defense is not None or not needed
        return AttackContext(
            spec=spec,
            unit=unit,
            images=x,
            labels=y,
            natural=torch.tensor(task.natural, device=self.device),
            classes=self.classes,
            defense=defense,
            static_points=self._tensor(task.static_points),
            claimed_points=self._tensor(task.claimed_points),
            network=self.shown(spec, self.model.attacked(spec).static),
            counterpart=self._tensor(inherited.counterpart),
            others=self.inputs.images[others].to(self.device),
            other_labels=self.inputs.labels[others].to(self.device),
            with_steps=self.with_steps(spec, unit),
            random=task.random,
            surrogate=self.surrogate_of(spec, unit),
            stream=self.model.attacked(spec).stream(spec, unit, POISONED),
            starts=tuple(torch.from_numpy(start).to(self.device) for start in inherited.starts),
            settled_by=inherited.settled_by,
            settled_points=self._tensor(inherited.settled_points),
        )

    def surrogate_of(self, spec: EvalSpec, unit: int | None = None) -> Classifier | None:
        """Return the surrogate that the defense declares, in its attribute of that name."""
        declared = getattr(self.model.attacked(spec).of(spec, unit), "surrogate", None)
        return self.shown(spec, declared) if callable(declared) else None

    def _tensor(self, points: Points | None) -> Tensor | None:
        return None if points is None else torch.from_numpy(points).to(self.device)
