"""Estimate the rest of a run: exact bounds in passes, and seconds from timed batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dentbench.attacks.cost import Passes, adapted
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.estimates.duration import Left, Speed, bound, speed_of, stages_of
from dentbench.evaluation.memory.footprint import memory_kind
from dentbench.spec.evaluation import EvalSpec

MEMORY_SECONDS: Final = 0.5
"""Where four images take a defense longer than this, its memory is not measured."""


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """The most work that is left of a stage, where every image survives every attack.

    ``spec``: whose stage it is, the static model's counterparts among them. ``images``: those that
    are not stored yet. ``forwards`` and ``backwards``: single-image passes; ``seconds``:
    extrapolated. ``memory``: bytes for one batch, beside the model; None where they cannot be
    measured, or not soon.
    """

    spec: EvalSpec
    stage: str
    images: int
    forwards: int
    backwards: int
    seconds: float
    memory: int | None


def estimate(
    context: RunContext,
    specs: Sequence[EvalSpec],
    protocols: Mapping[EvalSpec, Sequence[str]],
    left: Left,
    elsewhere: Speed | None = None,
    random: frozenset[EvalSpec] = frozenset(),
) -> list[StageEstimate]:
    """Estimate the rest of every stage of a run, each once, those of a spec together.

    ``protocols``: those that can attack each spec's defense. ``left``: the images of a stage that
    are not stored yet. ``elsewhere``: the network's speed where the run is to be; by default it is
    timed here. ``random``: the specs whose defense answers by chance.
    """
    worker = context.worker
    here = speed_of(worker, specs[0].batches.size)
    order = list(dict.fromkeys((spec.attack, spec.defense) for spec in specs))
    stages = stages_of(specs, protocols)
    stages = [pair for pair in stages if (pair[0].attack, pair[0].defense) in order]
    stages.sort(key=lambda pair: order.index((pair[0].attack, pair[0].defense)))
    memory: dict[tuple[EvalSpec, str], int | None] = {}
    estimates = []
    for spec, stage in stages:
        kind = spec, memory_kind(stage)
        if kind not in memory:
            memory[kind] = _memory(context, spec, stage, here)
        images = left(spec, stage)
        passes = bound(spec, stage, worker.classes, random=spec in random) * images
        estimates.append(
            StageEstimate(
                spec=spec,
                stage=stage,
                images=images,
                forwards=passes.forwards,
                backwards=passes.backwards,
                seconds=(elsewhere or here).seconds(passes),
                memory=memory[kind],
            )
        )
    return estimates


def _memory(context: RunContext, spec: EvalSpec, stage: str, speed: Speed) -> int | None:
    four = adapted(Passes(4, 4), spec.defense)
    if speed.seconds(four) > MEMORY_SECONDS:
        return None
    need: int | None = context.worker.model.need(spec, stage)
    return need
