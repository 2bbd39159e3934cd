"""Keep example images of a run, their adversarial points, and the predictions of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dentbench.attacks.rng import SeededDefense
from dentbench.evaluation.context import RunContext
from dentbench.records import examples
from dentbench.records.examples import SIZE, Gallery
from dentbench.records.outcome import NATURAL, BatchOutcome
from dentbench.spec.evaluation import DentSpec, EvalSpec, derive_seed

EACH: Final = 4
"""The most images kept of each fate: fell to published, fell to other protocols, survived."""


def keep_gallery(
    context: RunContext, spec: EvalSpec, stages: Mapping[str, Sequence[BatchOutcome]]
) -> None:
    """Keep the first images of each fate in the first declared batch; their points must be kept.

    The passes that it takes are not counted: they are no part of the evaluation.
    """
    folder = context.folder(spec)
    protocols = [name for name in stages if name != NATURAL]
    kept = {name: folder.points(name, 0) for name in protocols}
    points = {
        name: torch.from_numpy(kept_points)[: spec.batches.size]
        for name, kept_points in kept.items()
        if kept_points is not None
    }
    if spec.defense is None or points.keys() != set(protocols):
        return
    worker = context.worker
    with worker.counter.uncounted():
        made = worker.micro_batcher.fit(spec, NATURAL, lambda: _made(context, spec, stages, points))
    examples.save(context.options.results, spec.key(), made)


def _made(
    context: RunContext,
    spec: EvalSpec,
    stages: Mapping[str, Sequence[BatchOutcome]],
    points: Mapping[str, Tensor],
) -> Gallery:
    fates = _fates(stages, spec.batches.size)
    rows = _chosen(fates)
    clean = context.inputs.images[: len(fates)]
    shown = [fates[row] or next(iter(points)) for row in rows]
    seen = {NATURAL: _seen(context, spec, NATURAL, clean)}
    seen |= {name: _seen(context, spec, name, points[name]) for name in dict.fromkeys(shown)}
    adversarial = _stacked([points[name] for name in shown], rows)
    before = seen[NATURAL]
    logits = (
        *(before[0][rows], before[1][rows]),
        _stacked([seen[name][0] for name in shown], rows),
        _stacked([seen[name][1] for name in shown], rows),
    )
    confidence, predicted = torch.stack(logits, 1).softmax(-1).max(-1)
    difference = (adversarial - clean[rows]) / (2 * float(spec.attack.eps) or 1) + 0.5
    blurs = [seen[name][2] for name in shown]
    blurred = [blur for blur in blurs if blur is not None]
    return Gallery(
        index=np.array(rows, np.int64),
        label=context.inputs.labels[rows].numpy(),
        protocol=np.array(shown, np.str_),
        survives=np.array([not fates[row] for row in rows], np.bool_),
        clean=_pictures(clean[rows]),
        adversarial=_pictures(adversarial),
        difference=_pictures(difference),
        blurred_clean=_pictures(before[2][rows] if before[2] is not None else clean[:0]),
        blurred=_pictures(_stacked(blurred, rows) if blurred else clean[:0]),
        predicted=predicted.numpy(),
        confidence=confidence.numpy(),
    )


def _fates(stages: Mapping[str, Sequence[BatchOutcome]], size: int) -> list[str]:
    """Return the first stage that each image of the first batch was wrong in, or ""."""
    flags = {name: outcomes[0].correct[:size] for name, outcomes in stages.items()}
    return [
        next((name for name in flags if not flags[name][row]), "")
        for row in range(len(flags[NATURAL]))
    ]


def _chosen(fates: Sequence[str]) -> list[int]:
    """Return the rows to keep, in order; images wrong naturally only where there are no others."""
    groups: dict[str, list[int]] = {}
    for row, fate in enumerate(fates):
        kind = fate if fate in (NATURAL, "published", "") else "others"
        groups.setdefault(kind, []).append(row)
    natural = groups.pop(NATURAL, [])
    rows = [row for group in groups.values() for row in group[:EACH]]
    return sorted(rows or natural[:EACH])


def _seen(
    context: RunContext, spec: EvalSpec, stage: str, batch: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the static and the defended logits on a declared batch, and it as blurred."""
    worker = context.worker
    x = batch.to(worker.device)
    defense = worker.classifier(spec, 0)
    seeded = SeededDefense(defense, derive_seed(spec.seed, "defense", stage, 0), worker.device)
    with torch.no_grad():
        logits = worker.shown(spec, worker.network)(x).cpu(), seeded(x).cpu()
    return (*logits, _blurred(spec, defense, x))


def _blurred(spec: EvalSpec, defense: Any, x: Tensor) -> Tensor | None:
    if not isinstance(spec.defense, DentSpec) or spec.defense.blur == "none":
        return None
    with torch.no_grad():
        blurred: Tensor = defense.preprocess(x, defense.adapt(x)).cpu()
    return blurred


def _stacked(batches: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """Return, for each row, that row of its own batch."""
    return torch.stack([batch[row] for batch, row in zip(batches, rows, strict=True)])


def _pictures(images: Tensor) -> examples.Pictures:
    """Return images (K, C, H, W) in [0, 1] as small pictures (K, H, W, C) of 8 bits."""
    scale = SIZE / max(images.shape[2:])
    if scale < 1 and len(images):
        images = torch.nn.functional.interpolate(images, scale_factor=scale, mode="area")
    whole = images.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
    pictures: examples.Pictures = whole.contiguous().numpy()
    return pictures
