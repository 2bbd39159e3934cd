"""One unit of work, from what it needs to what it leaves; in this process or in another.

A worker has the model and the images; a task says what to do with one batch and carries what
stages before it left. Nothing is read or written here: that is the runner's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import Classifier, ThreatModel, judge
from dentbench.attacks.budget import POISONED
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.chunked import Chunked
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.attacks.differentiable import gradient_path
from dentbench.attacks.protocols.base import AttackContext, load_protocol
from dentbench.attacks.rng import SeededDefense
from dentbench.compute.adaptation_cache import AdaptationCache
from dentbench.compute.backend import Engine
from dentbench.compute.precision import Bfloat16, tensor_float32
from dentbench.defenses.build import dent_of
from dentbench.errors import DataError, DeviceMemoryError, ModelError, SpecError
from dentbench.evaluation import cascade, equivalence, out_of_memory
from dentbench.evaluation.defense_cache import DefenseCache
from dentbench.evaluation.memory_footprint import HEAVY, needed
from dentbench.records.checkpoint import Points, sha256_of
from dentbench.records.outcome import NATURAL, BatchOutcome
from dentbench.spec.evaluation import DataSpec, DefenseSpec, EvalSpec, derive_seed
from dentbench.zoo.arrays import label_windows

Result = TypeVar("Result")


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
class Task:
    """One stage on one unit of work (a declared batch), with what it takes over from others.

    ``natural`` (B flags): which images are right without an attack; empty for the natural stage
    itself. ``claimed_points`` (B, C, H, W): those of a file, where they are judged.
    ``static_points`` (B, C, H, W): the static model's adversarial points, where the
    protocol needs them. ``inherited``: from the stages before it in a cascade. ``keep``: whether
    the final points are wanted back. ``random``: whether the defense answers by chance.
    ``at_a_time``: how many images there is memory for at a time, where it is known to be less than
    a batch.
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


class Worker:
    """A model and images on one device, and the defenses around the model.

    ``engine``: how the network is computed. ``given``: the objects that specs of defenses given
    from Python stand for. ``tried``: whether a defense of one's own is tried when it is made.
    Raises :class:`~dentbench.errors.ModelError` or :class:`~dentbench.errors.DataError` when the
    network does not fit the images or the labels.
    """

    def __init__(
        self,
        subject: Subject,
        device: str,
        engine: Engine,
        given: Mapping[DefenseSpec, Any] | None = None,
        *,
        tried: bool = True,
    ) -> None:
        self.blueprint = subject, engine, given
        self.subject = subject
        self._trials: dict[int, equivalence.Trial | None] = {}
        self.device = torch.device(device)
        self.counter = CallCounter()
        with out_of_memory.raise_on_oom("the model", device):
            network = engine.prepare(subject.network, self.device, subject.images[:2])
        self.classes = _count_classes(network, subject, self.device)
        path = gradient_path(network, subject.images[:1].to(self.device))
        self.network = CountedNetwork(network, self.counter, path)
        low = CountedNetwork(Bfloat16(network), self.counter, path)
        self.adaptations = AdaptationCache()
        self.defense_cache, self._low = (
            DefenseCache(
                one,
                subject.images,
                given,
                captured=engine.captured,
                adaptations=self.adaptations,
                tried=tried,
            )
            for one in (self.network, low)
        )
        self.micro_batcher = out_of_memory.MicroBatcher(self.device, self.counter)

    def classifier(self, spec: EvalSpec, unit: int | None = None) -> Classifier:
        """Return what a spec attacks and judges: the network itself, or a defense around it.

        ``unit``: in which unit of work, for a defense that goes on from batch to batch.
        """
        return self.shown(spec, self.defense_cache.of(spec, unit))

    def shown(self, spec: EvalSpec, classify: Classifier) -> Classifier:
        """Return a classifier of a spec, in parts where there is no room for all of a batch."""
        size = self.micro_batcher.size(spec)
        return classify if size is None else Chunked(classify, size, self.counter)

    def require_same_network(self, spec: EvalSpec) -> None:
        """Raise :class:`~dentbench.errors.ModelError` unless a spec is of the network handed in.

        What is computed is compared with it, and dent's layers where there are some.
        """
        if self.network.path == "broken":
            return  # it has no gradient to be compared, and dent refuses it when it is to adapt
        size = spec.batches.size if spec.batches.batching == "declared" else equivalence.FEW
        if size not in self._trials:
            images = self.subject.images[:size].to(self.device)
            self._trials[size] = equivalence.Trial.of(self.subject.network, images)
        trial, dent = self._trials[size], dent_of(spec.defense)
        if trial is not None and dent is None:
            equivalence.require_same_network(trial, self.network.network)
        elif trial is not None and dent is not None:
            equivalence.require_same_in_dent(trial, self.network.network, dent)

    def fit(self, spec: EvalSpec, stage: str, work: Callable[[], Result]) -> Result:
        """Return what ``work`` does with the spec's classifiers, in parts if memory runs out.

        Raises :class:`~dentbench.errors.DeviceMemoryError` where that would change an answer.
        """

        def why_whole() -> str:
            with self.counter.uncounted():
                return out_of_memory.why_whole(spec, self.defense_cache.of(spec), self._few())

        def need() -> int | None:
            return self.need(spec, stage)

        self.micro_batcher.shrink_preemptively(spec, stage, self.subject.images[0], why_whole, need)
        try:
            return self.micro_batcher.fit(spec, work, why_whole, need)
        except DeviceMemoryError as error:
            less = "; other protocols need less (--protocol)" if stage in HEAVY else ""
            raise DeviceMemoryError(f"{spec.label} {stage}: {error}{less}") from error

    def need(self, spec: EvalSpec, stage: str) -> int | None:
        """Return about how many bytes a stage takes for one whole batch, see :func:`needed`.

        None where that cannot be found out, as for a defense that takes no few images.
        """
        attacked = self.attacked(spec)
        with self.counter.uncounted(), suppress(Exception):
            return needed(spec, stage, attacked.of(spec), attacked.network, self._few())
        return None

    def _few(self) -> Tensor:
        return self.subject.images[: out_of_memory.FEW].to(self.device)

    def attacked(self, spec: EvalSpec) -> DefenseCache:
        """Return the defenses as the attacks of a spec compute them: in its precision."""
        if spec.precision == "tf32" and self.device.type != "cuda":
            raise SpecError("precision is 'tf32', which only CUDA GPUs have; use fp32 or bf16")
        return self._low if spec.precision == "bf16" else self.defense_cache

    def with_steps(
        self, spec: EvalSpec, unit: int | None = None
    ) -> Callable[..., Classifier] | None:
        """Return what makes the defense with fewer steps, if there are fewer.

        It is called with their number, and with ``larger`` for steps that go as far in all.
        """
        defense = spec.defense
        if defense is None or defense.steps < 2:
            return None
        attacked = self.attacked(spec)

        def make(steps: int, *, larger: bool = False) -> Classifier:
            fewer = defense.with_larger_steps(steps) if larger else defense.with_steps(steps)
            return self.shown(spec, attacked.of(replace(spec, defense=fewer), unit))

        return make

    def carry_out(self, task: Task) -> tuple[BatchOutcome, Points | None]:
        """Return the outcome of a task: adapt, attack, project, clip, judge afresh; and points.

        Raises :class:`~dentbench.errors.ModelError`, with the batch named, for logits that are
        not finite and for an adaptation that diverges, and
        :class:`~dentbench.errors.DeviceMemoryError` for a batch that does not fit into memory.
        """
        spec, units = task.spec, task.spec.batches.ranges(task.spec.data.count)
        self.micro_batcher.learn(spec, task.at_a_time)

        def work() -> tuple[BatchOutcome, Points | None]:
            with self.adaptations:
                return self._carried_out(task, units[task.unit])

        try:
            return self.fit(spec, task.stage, work)
        except ModelError as error:
            where = f"{spec.label} {task.stage}, batch {task.unit + 1} of {len(units)}"
            raise ModelError(f"{where}: {error}") from error

    def _carried_out(self, task: Task, images: range) -> tuple[BatchOutcome, Points | None]:
        spec = task.spec
        x = self.subject.images[images.start : images.stop].to(self.device)
        y = self.subject.labels[images.start : images.stop].to(self.device)
        forwards, backwards = self.counter.forwards, self.counter.backwards
        started = time.perf_counter()
        seed = derive_seed(spec.seed, "defense", task.stage, task.unit)
        defense = SeededDefense(self.classifier(spec, task.unit), seed, self.device)
        changed = None
        if task.stage == NATURAL or spec.attack.eps == 0:
            # In a ball of radius 0 there is the image alone, and how it was judged is known.
            points, judged = x, torch.tensor(task.natural, device=self.device)
            if task.stage == NATURAL:
                judged = judge_in_batches(defense, x, y, spec.batches.size)
            result = AttackResult(x, judged, tuple("" if c else NATURAL for c in judged.tolist()))
            correct = judged
        else:
            attacked = defense
            if spec.precision != "fp32":
                low = self.shown(spec, self.attacked(spec).of(spec, task.unit))
                attacked = SeededDefense(low, seed, self.device)
            context = self._attack_context(task, x, y, attacked)
            with tensor_float32(spec.precision == "tf32"):
                result = load_protocol(task.stage)(context)
                points = ThreatModel.of(spec.attack).project(result.points, x)
                found = judge_in_batches(attacked, points, y, spec.batches.size)
            judged = found
            if attacked is not defense:
                judged = judge_in_batches(defense, points, y, spec.batches.size)
                changed = int((judged != found).sum())
            correct = cascade.corrected(judged, context.settled_by, result.elsewhere)
        static_correct: tuple[bool, ...] = ()
        if spec.defense is not None and task.stage != NATURAL:
            self.micro_batcher.learn(spec.counterpart, self.micro_batcher.size(spec))
            static = self.classifier(spec.counterpart)
            flags = judge_in_batches(static, points, y, spec.batches.size)
            static_correct = tuple(flags.tolist())
        rights: tuple[int, ...] = ()
        if task.random and cascade.keeps_points(spec, task.stage):
            draws = range(spec.protocols.draws_judged)
            results = [judge_in_batches(defense, points, y, spec.batches.size) for _ in draws]
            rights = tuple(torch.stack(results).sum(0).tolist())
        outcome = BatchOutcome(
            stage=task.stage,
            index=task.unit,
            correct=tuple(correct.tolist()),
            attack_correct=tuple(result.robust.tolist()),
            broken_by=result.broken_by,
            forwards=self.counter.forwards - forwards,
            backwards=self.counter.backwards - backwards,
            seconds=time.perf_counter() - started,
            judged=tuple(judged.tolist()),
            changed=changed,
            static_correct=static_correct,
            rights=rights,
            points_sha256=sha256_of(points.cpu().numpy()) if spec.defense is not None else "",
            details=result.details,
            versions=cascade.versions(spec, task.stage),
            indexes=tuple(_places(self.subject, spec)[images.start : images.stop]),
            labels=tuple(y.tolist()),
            **_norms(points - x),
        )
        return outcome, points.cpu().numpy() if task.keep else None

    def _attack_context(
        self, task: Task, x: Tensor, y: Tensor, defense: Classifier
    ) -> AttackContext:
        """Gather what a protocol may use on one batch."""
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
            network=self.shown(spec, self.attacked(spec).static),
            counterpart=self._tensor(inherited.counterpart),
            others=self.subject.images[others].to(self.device),
            other_labels=self.subject.labels[others].to(self.device),
            with_steps=self.with_steps(spec, unit),
            random=task.random,
            surrogate=self.surrogate_of(spec, unit),
            stream=self.attacked(spec).stream(spec, unit, POISONED),
            starts=tuple(torch.from_numpy(one).to(self.device) for one in inherited.starts),
            settled_by=inherited.settled_by,
            settled_points=self._tensor(inherited.settled_points),
        )

    def surrogate_of(self, spec: EvalSpec, unit: int | None = None) -> Classifier | None:
        """Return what the defense declares to be near to it, in its attribute of that name."""
        declared = getattr(self.attacked(spec).of(spec, unit), "surrogate", None)
        return self.shown(spec, declared) if callable(declared) else None

    def _tensor(self, points: Points | None) -> Tensor | None:
        return None if points is None else torch.from_numpy(points).to(self.device)


def judge_in_batches(classify: Classifier, points: Tensor, labels: Tensor, size: int) -> Tensor:
    """Return, image by image, whether ``classify`` is right, shown batches of ``size`` in order."""
    parts = [
        judge(classify, x, y) for x, y in zip(points.split(size), labels.split(size), strict=True)
    ]
    return torch.cat(parts)


def _norms(perturbations: Tensor) -> dict[str, tuple[float, ...]]:
    """Return the norms, by name, of perturbations (B, C, H, W), image by image."""
    flat = perturbations.detach().flatten(1).double()
    orders = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
    return {
        name: tuple(torch.linalg.vector_norm(flat, order, dim=1).tolist())
        for name, order in orders.items()
    }


def _places(subject: Subject, spec: EvalSpec) -> list[int]:
    """Return the number in the data set of each image of a subject."""
    first, window = spec.data.first, spec.data.window
    if subject.given is None or window is None:
        return list(range(first, first + len(subject.labels)))
    return (first + label_windows(subject.given[0].labels, window)).tolist()


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
