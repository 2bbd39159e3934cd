"""Estimate how long a run will take on this machine, before it begins and while it goes on.

Passes are bounded exactly; how many images survive is unknown, so the card's published robust
accuracy stands in for it. Seconds are from timed batches of the plain network: a defense is not
asked anything before its checks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, TypeAlias

import torch

from dentbench.attacks.catalogue import with_prerequisites
from dentbench.attacks.cost import Passes, stage_passes
from dentbench.attacks.stage_order import cheap_first
from dentbench.evaluation.cascade import has_counterpart
from dentbench.evaluation.estimates.time_forecast import TimeForecast
from dentbench.evaluation.progress.events import Stage
from dentbench.evaluation.schedule import Schedule
from dentbench.evaluation.workers.worker import Worker
from dentbench.records.outcome import NATURAL, PUBLISHED
from dentbench.report.verdict import GAIN_POINTS
from dentbench.spec.evaluation import AttackSpec, EvalSpec
from dentbench.stats.sequential import images_needed, looks_of

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


def stage_of(spec: EvalSpec, stage: str) -> Stage:
    """Return a stage of a spec as progress tells it."""
    return Stage(model=spec.model.name, defense=spec.label, protocol=stage, run=spec.key())


def bound(spec: EvalSpec, stage: str, classes: int, *, random: bool = False) -> Passes:
    """Return the most passes of an image in a stage; nothing is attacked at eps 0.

    ``random``: whether the defense answers by chance.
    """
    if stage != NATURAL and spec.attack.eps == 0:
        return Passes(0, 0)
    return stage_passes(spec, stage, classes, random=random)


def surviving(robust: float | None) -> float:
    """Return the share of a stage's bound that is expected, from a robust accuracy in percent."""
    share = UNKNOWN if robust is None else robust / 100
    return min(1.0, share + BROKEN)


@dataclass(frozen=True)
class Run:
    """A run whose time is to be forecast.

    ``protocols``: those that can attack each spec's defense; ``left``: the images of a stage that
    are not stored yet; ``robust``: the published robust accuracy, in percent, if any;
    ``schedule``: when it ends. ``random``: the specs whose defense answers by chance.
    """

    worker: Worker
    specs: Sequence[EvalSpec]
    protocols: Mapping[EvalSpec, Sequence[str]]
    left: Left
    robust: float | None
    schedule: Schedule = field(default_factory=Schedule)
    random: frozenset[EvalSpec] = frozenset()

    def plan(self) -> dict[Stage, float]:
        """Return the passes that each stage is expected to take yet."""
        passes = {
            stage_of(spec, name): self._passes(spec, name) * images
            for spec, name, images in self._expected
        }
        return {stage: count for stage, count in passes.items() if count}

    def batches(self) -> dict[Stage, int]:
        """Return how many batches of each stage are expected to be finished in the end."""
        expected: dict[Stage, int] = {}
        for spec, name, images in self._expected:
            ends = accumulate(map(len, spec.batches.ranges(spec.data.count)))
            wanted = spec.data.count - self.left(spec, name) + images
            expected[stage_of(spec, name)] = 1 + sum(end < wanted for end in ends)
        return expected

    def forecast(self) -> TimeForecast:
        """Return how long the rest is expected to take, from timed batches if it is long."""
        plan = self.plan()
        asked = (self._passes(spec, name) * images for spec, name, images in self._asked)
        if sum(asked) <= SHORT:
            speed = Speed(0.0, 0.0)
        else:
            speed = speed_of(self.worker, self.specs[0].batches.size)
        whole, share = self._seconds(self._whole(), speed), surviving(self.robust)
        compares = any(map(_compares, self.specs))
        return TimeForecast(
            passes=plan,
            batches=self.batches(),
            until_decided=bool(self.schedule.until),
            whole=whole,
            decided=self._seconds(self._first(), speed) if compares else whole,
            quick=self._seconds(self._quick(), speed),
            low=whole * min(max(0.4, share - 0.2) / share, 1.0),
            high=whole * max(min(1.0, 1.3 * share + 0.1) / share, 1.0),
            within=self._seconds(self._expected, speed),
            time_limit=self.schedule.seconds_left,
        )

    def _seconds(self, stages: Iterable[_Part], speed: Speed) -> float:
        return sum(
            speed.seconds(self._bound(spec, name)) * images * self._share(name)
            for spec, name, images in stages
        )

    def _bound(self, spec: EvalSpec, stage: str) -> Passes:
        return bound(spec, stage, self.worker.classes, random=spec in self.random)

    def _share(self, stage: str) -> float:
        return 1.0 if stage == NATURAL else surviving(self.robust)

    def _passes(self, spec: EvalSpec, stage: str) -> float:
        """Return the expected passes of an image."""
        most = self._bound(spec, stage)
        return (most.forwards + most.backwards) * self._share(stage)

    @cached_property
    def _asked(self) -> list[_Part]:
        """The work of the run, whatever its limits."""
        decides = self.schedule.until and any(map(_compares, self.specs))
        return [*(self._first() if decides else self._whole())]

    @cached_property
    def _expected(self) -> list[_Part]:
        """The work of the run that its pass limit leaves."""
        most = self.schedule.pass_limit
        return self._asked if most is None else [*self._within(most)]

    def _within(self, most: int) -> Iterator[_Part]:
        """Yield the work that so many passes of each record leave."""
        costs: dict[EvalSpec, float] = {}
        for spec, name, _ in self._asked:
            costs[spec] = costs.get(spec, 0.0) + self._passes(spec, name) * spec.data.count
        bases = {spec: costs.get(spec.static, 0.0) for spec in costs if spec.defense is not None}
        shares = {spec: most / max(costs[spec] + base, most) for spec, base in bases.items()}
        furthest = max(shares.values(), default=1.0)
        for spec, name, images in self._asked:
            count = spec.data.count
            reached = math.ceil(shares.get(spec, furthest) * count)
            yield spec, name, max(0, min(images, reached - (count - self.left(spec, name))))

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
