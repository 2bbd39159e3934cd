"""Estimate how long a run will take on this machine, before it begins and while it goes on.

Passes are bounded exactly; how many images survive is unknown, so the card's published robust
accuracy stands in for it. Seconds are from timed batches of the plain network: a defense is not
asked anything before its checks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import torch

from dentbench.attacks.catalogue import with_prerequisites
from dentbench.attacks.cost import Passes, stage_passes
from dentbench.attacks.stage_order import cheap_first
from dentbench.evaluation.cascade import has_counterpart
from dentbench.evaluation.progress.events import Stage, duration_text
from dentbench.evaluation.workers.worker import Worker
from dentbench.records.outcome import NATURAL, PUBLISHED
from dentbench.report.verdict import GAIN_POINTS
from dentbench.spec.evaluation import AttackSpec, EvalSpec
from dentbench.stats.sequential import images_needed, looks_of

LONG: Final = 60.0
"""Runs of at least so many seconds say before they begin how long they will take."""

SHORT: Final = 50_000
"""Runs of at most so many passes are not timed before they begin."""

DIFFERING: Final = (5.0, 5.0, 100.0)
"""Images gained and lost of 100 that the forecast of a run until decided assumes."""

BROKEN: Final = 0.05
"""The cost of an image that breaks early, as a share of a full attack."""

UNKNOWN: Final = 0.5
"""The share of images that survive, where no card says it."""

REPEATS: Final = 3
"""How often a batch is timed: on a busy machine the quickest timing is the most reliable."""

TIMED_SECONDS: Final = 1.0
"""About how long timing may take, once."""


@dataclass(frozen=True)
class Speed:
    """Seconds of an image's forward pass, and of its backward pass."""

    forward: float
    backward: float

    def seconds(self, passes: Passes) -> float:
        """Return how long so many passes take."""
        return passes.forwards * self.forward + passes.backwards * self.backward


Left: TypeAlias = "Callable[[EvalSpec, str], int]"
"""Returns how many images of a stage are not stored yet."""

_Part: TypeAlias = tuple[EvalSpec, str, int]
"""A stage of a spec, and how many images it is to be run on."""


def speed_of(worker: Worker, size: int) -> Speed:
    """Time the plain network on a batch of so many images, or on fewer where that would be long."""
    network = worker.model.network
    few, count = worker.inputs.images[: min(size, 4)], len(worker.inputs.images[:size])
    with worker.counter.uncounted(), _quickest_threads(lambda: _timed(network, few)[1]):
        forward, gradient = _timed(network, few)
        if gradient / len(few) * count < TIMED_SECONDS / 3:
            few = worker.inputs.images[:size]
            forward, gradient = _timed(network, few)
    return Speed(forward / len(few), max(gradient - forward, 0.0) / len(few))


@contextmanager
def _quickest_threads(seconds: Callable[[], float]) -> Iterator[None]:
    """Use one thread in the block if that is quicker than all.

    Where other work has taken a core, threads that wait for it can be far slower than a single
    thread.
    """
    threads = torch.get_num_threads()
    seconds()  # the first call allocates
    together = seconds()
    try:
        torch.set_num_threads(1)
        if together <= seconds():
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(threads)


def _timed(network: torch.nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Return the least seconds of a forward pass, and of a pass with its gradient."""
    x = images.to(next(network.parameters()).device)
    with torch.no_grad():
        forward = min(_seconds(lambda: network(x), x) for _ in range(REPEATS))
    leaf = x.clone().requires_grad_()

    def gradient() -> None:
        logits = network(leaf)
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf)

    return forward, min(_seconds(gradient, x) for _ in range(REPEATS))


def _seconds(work: Callable[[], object], x: torch.Tensor) -> float:
    started = time.perf_counter()
    work()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started


def stages_of(
    specs: Sequence[EvalSpec], protocols: Mapping[EvalSpec, Sequence[str]]
) -> list[tuple[EvalSpec, str]]:
    """Return every stage that a run needs, each once, the static model's counterparts among them.

    ``protocols``: those that can attack each spec's defense.
    """
    stages: dict[tuple[Any, ...], tuple[EvalSpec, str]] = {}
    for spec in specs:
        bases = [] if spec.attack.is_none else [(spec.static, PUBLISHED)]
        run = [(spec, NATURAL), (spec.static, NATURAL), *bases]
        if spec.defense is not None and not spec.attack.is_none:
            for name in with_prerequisites(protocols[spec], spec):
                run.append((spec, name))
                if has_counterpart(spec, name):
                    run.append((spec.counterpart, name))
        for owner, stage in run:
            stages.setdefault((owner.key(), owner.protocols, stage), (owner, stage))
    return [*stages.values()]


def bound(spec: EvalSpec, stage: str, classes: int) -> Passes:
    """Return the most passes of an image in a stage; nothing is attacked at eps 0."""
    if stage != NATURAL and spec.attack.eps == 0:
        return Passes(0, 0)
    return stage_passes(spec, stage, classes)


def surviving(robust: float | None) -> float:
    """Return the share of a stage's bound that is expected, from a robust accuracy in percent."""
    share = UNKNOWN if robust is None else robust / 100
    return min(1.0, share + BROKEN)


@dataclass(frozen=True, kw_only=True)
class TimeForecast:
    """How many seconds runs will take; those of several runs add up.

    ``whole``: of the full evaluation; ``low`` and ``high``: its ends. ``decided``: of a run until
    decided, which is ``whole`` where there is no defense to judge. ``quick``: of the attack
    "quick". ``passes``: the passes that each stage is expected to take yet.
    """

    passes: Mapping[Stage, float]
    until_decided: bool
    whole: float
    decided: float
    quick: float
    low: float
    high: float

    def __add__(self, other: TimeForecast) -> TimeForecast:
        """Return the forecast of both runs, one after the other."""
        passes = dict(self.passes)
        for stage, more in other.passes.items():
            passes[stage] = passes.get(stage, 0.0) + more
        numbers = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("whole", "decided", "quick", "low", "high")
        }
        return TimeForecast(passes=passes, until_decided=self.until_decided, **numbers)

    @property
    def text(self) -> str:
        """How long the runs will take, and how to have them shorter; "" for short runs."""
        stops = self.until_decided and self.decided < self.whole
        shown = self.decided if stops else self.whole
        if shown < LONG:
            return ""
        share = shown / self.whole
        ends = f"({duration_text(self.low * share)} to {duration_text(self.high * share)})"
        text = f"about {duration_text(shown)} on this machine {ends}"
        if stops:
            text = f"until decided {text} if the cheapest protocol decides"
            return f"{text}; the full evaluation about {duration_text(self.whole)}"
        if self.decided < self.whole / 2:
            text += f"; `--until decided` about {duration_text(self.decided)}"
        if self.quick < self.whole / 2:
            text += f"; `--attack quick` about {duration_text(self.quick)}"
        return text


@dataclass(frozen=True)
class Run:
    """A run whose time is to be forecast.

    ``protocols``: those that can attack each spec's defense; ``left``: the images of a stage that
    are not stored yet; ``robust``: the published robust accuracy, in percent, if any.
    """

    worker: Worker
    specs: Sequence[EvalSpec]
    protocols: Mapping[EvalSpec, Sequence[str]]
    left: Left
    robust: float | None

    def plan(self, *, until_decided: bool) -> dict[Stage, float]:
        """Return the passes that each stage is expected to take yet."""
        expected_passes: dict[Stage, float] = {}
        for spec, name, images in self._first() if until_decided else self._whole():
            passes = bound(spec, name, self.worker.classes)
            stage = Stage(model=spec.model.name, defense=spec.label, protocol=name)
            expected = (passes.forwards + passes.backwards) * images * self._share(name)
            expected_passes[stage] = expected_passes.get(stage, 0.0) + expected
        return {stage: passes for stage, passes in expected_passes.items() if passes}

    def forecast(self, *, until_decided: bool) -> TimeForecast:
        """Return how long the rest is expected to take, from timed batches if it is long."""
        plan = self.plan(until_decided=until_decided)
        if sum(plan.values()) <= SHORT:
            speed = Speed(0.0, 0.0)
        else:
            speed = speed_of(self.worker, self.specs[0].batches.size)
        whole, share = self._seconds(self._whole(), speed), surviving(self.robust)
        compares = any(map(_compares, self.specs))
        return TimeForecast(
            passes=plan,
            until_decided=until_decided,
            whole=whole,
            decided=self._seconds(self._first(), speed) if compares else whole,
            quick=self._seconds(self._quick(), speed),
            low=whole * min(max(0.4, share - 0.2) / share, 1.0),
            high=whole * max(min(1.0, 1.3 * share + 0.1) / share, 1.0),
        )

    def _seconds(self, stages: Iterable[_Part], speed: Speed) -> float:
        classes = self.worker.classes
        return sum(
            speed.seconds(bound(spec, name, classes)) * images * self._share(name)
            for spec, name, images in stages
        )

    def _share(self, stage: str) -> float:
        return 1.0 if stage == NATURAL else surviving(self.robust)

    def _whole(self) -> Iterator[_Part]:
        for spec, name in stages_of(self.specs, self.protocols):
            yield spec, name, self.left(spec, name)

    def _first(self) -> Iterator[_Part]:
        """Yield the expected work of a run until decided: the cheapest protocol on some batches."""
        defended = [spec for spec in self.specs if _compares(spec)]
        cheapest = {spec: cheap_first(self.protocols[spec])[:1] for spec in defended}
        for spec, name in stages_of(defended, cheapest):
            yield spec, name, _until_decided(spec, self.left(spec, name))

    def _quick(self) -> Iterator[_Part]:
        short = [replace(spec, attack=_short(spec.attack)) for spec in self.specs]
        able = {
            shortened: self.protocols[spec]
            for shortened, spec in zip(short, self.specs, strict=True)
        }
        for spec, name in stages_of(short, able):
            yield spec, name, self.left(spec, name)


def _compares(spec: EvalSpec) -> bool:
    return spec.defense is not None and not spec.attack.is_none


def _short(attack: AttackSpec) -> AttackSpec:
    return AttackSpec(name="quick", norm=attack.norm, eps=attack.eps)


def _until_decided(spec: EvalSpec, left: int) -> int:
    """Return how many images a run until decided is expected to judge yet, of those left at most.

    Those judged before count; where they were more than foreseen, another batch is.
    """
    sizes = [len(rows) for rows in spec.batches.ranges(spec.data.count)]
    ratio = None if spec.separable and spec.defense is not None else 1.0
    more = images_needed(DIFFERING, ratio, looks_of(sizes), GAIN_POINTS / 100)
    foreseen = sum(sizes) if more is None else more + int(DIFFERING[2])
    yet = foreseen - (sum(sizes) - left)
    return min(left, yet if yet > 0 else max(sizes))
