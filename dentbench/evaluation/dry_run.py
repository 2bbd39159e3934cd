"""What is left of a study would cost: exact bounds in passes, and seconds from timed batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from dentbench.attacks.catalogue import with_prerequisites
from dentbench.attacks.cost import Passes, adapted, attack_passes
from dentbench.evaluation.cascade import has_counterpart
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.forecast import Left, bound
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import EvalSpec

FEW: Final = 4
"""Images that are timed where whole batches would take long."""

MOST_SECONDS: Final = 2.0
"""How long a pass over two batches may take to be timed."""


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """The most that one stage can cost: every image surviving every attack.

    ``forwards`` and ``backwards``: single-image passes; ``seconds``: extrapolated. ``memory``:
    bytes for one batch, beside the model; None where they cannot be told.
    """

    mode: str
    stage: str
    images: int
    forwards: int
    backwards: int
    seconds: float
    memory: int | None


def estimate(
    context: RunContext, spec: EvalSpec, protocols: Sequence[str], left: Left
) -> list[StageEstimate]:
    """Return what is left of each stage of one spec at most, after timing batches of it.

    ``protocols``: those that can attack the spec's defense. ``left``: the images that are not
    stored yet.
    """
    forward, gradient = context.worker.micro_batcher.fit(
        spec, "published", lambda: _time_two_batches(context, spec)
    )
    stages = [(spec, stage) for stage in (NATURAL, *_stages(spec, protocols))]
    # Run once for all defenses; each of them is told the cost, for it may be the only one.
    stages += [(one.counterpart, stage) for one, stage in stages if has_counterpart(one, stage)]
    once = adapted(Passes(1, 1), spec.defense)
    a_pass = gradient / (once.forwards + once.backwards)
    found = []
    for one, stage in stages:
        images = left(one, stage)
        total = bound(one, stage, context.worker.classes) * images
        seconds = (total.forwards + total.backwards) * a_pass
        if stage == "published" and spec.attack.eps:
            calls = attack_passes(spec.attack, context.worker.classes)
            seconds = (calls.forwards + 1) * forward + calls.backwards * (gradient - forward)
            seconds *= images
        found.append(
            StageEstimate(
                mode=spec.label,
                stage=stage if one is spec else f"static {stage}",
                images=images,
                forwards=total.forwards,
                backwards=total.backwards,
                seconds=seconds,
                memory=context.worker.model.need(one, stage),
            )
        )
    return found


def _stages(spec: EvalSpec, protocols: Sequence[str]) -> tuple[str, ...]:
    """Return the protocols that would be run, those that others start from among them."""
    if spec.attack.is_none:
        return ()
    if spec.defense is None:
        return ("published",)
    return with_prerequisites(protocols, spec)


def _time_two_batches(context: RunContext, spec: EvalSpec) -> tuple[float, float]:
    """Return the seconds per image of the defense's forward, and of forward and input gradient."""
    classify, device = context.worker.classifier(spec), context.worker.device
    size = spec.batches.size
    images = context.subject.images[: 2 * size].to(device)
    with torch.no_grad():
        few = images[:FEW]  # the first call allocates, and says whether whole batches take long
        once = _seconds(lambda: classify(few), device)
        if once / len(few) * len(images) > MOST_SECONDS:
            images = few
        batches = images.split(size)
        forward = _seconds(lambda: [classify(x) for x in batches], device)
    leaves = [x.clone().requires_grad_() for x in batches]
    gradient = _seconds(
        lambda: [torch.autograd.grad(classify(x).sum(), x) for x in leaves],
        device,
    )
    return forward / len(images), gradient / len(images)


def _seconds(work: object, device: torch.device) -> float:
    assert callable(work)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
