"""Measure a record's relative time, diagnostics and accuracy in the given order.

Each measurement is kept beside the outcomes, so that a run that is resumed or repeated has
nothing left to do; a record carries all that are there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from dentbench.adapt.dent import Dent
from dentbench.adapt.diagnostics import Diagnosis, diagnose
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.measurements.relative_time import time_ratio
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import BatchPlan, EvalSpec

_MEANS: Final = (
    *("loss_before", "loss_after", "entropy_before", "entropy_after"),
    *("sigma", "gamma_moved", "beta_moved"),
)

_LIKE: Final[Mapping[str, Any]] = {"images": 0, "labels": []}
"""The fields that every note of a diagnosis has."""


def observations(context: RunContext, spec: EvalSpec) -> dict[str, Any]:
    """Return the columns ``natural_given_correct``, ``time_ratio`` and ``diagnostics``.

    Made now where the run's options ask for them, else loaded from an earlier run.
    """
    return {
        "natural_given_correct": context.natural_given(spec),
        "time_ratio": _time_ratio(context, spec),
        "diagnostics": _diagnostics(context, spec),
    }


def _time_ratio(context: RunContext, spec: EvalSpec) -> float | None:
    if spec.defense is None:
        return None
    folder = context.folder(spec)
    ratio: float | None = folder.load_note("time_ratio")
    if ratio is None and context.options.measure_time:
        ratio = _measured_once(context, spec)
        folder.save_note("time_ratio", ratio)
    return ratio


def _measured_once(context: RunContext, spec: EvalSpec) -> float:
    """Return the relative time, which does not depend on the attack, measured if need be."""
    ratios, key = context.shared.time_ratio, context.shared.key(spec)
    if key not in ratios:
        worker = context.worker
        batch = context.inputs.images[: spec.batches.size].to(worker.device)
        static = replace(spec, defense=None)
        ratio = worker.micro_batcher.fit(
            spec,
            NATURAL,
            lambda: time_ratio(worker.classifier(static), worker.classifier(spec), batch),
        )
        ratios[key] = round(ratio, 3)
    return ratios[key]


# --- diagnostics ----------------------------------------------------------------------------------


def _diagnostics(context: RunContext, spec: EvalSpec) -> str | None:
    """Return the summaries by stage, JSON, of every stage whose batches are all diagnosed.

    The natural images are a stage, and each protocol whose final points were kept.
    """
    if spec.defense is None:
        return None
    folder = context.folder(spec)
    wanted = context.options.diagnostics
    summaries = {}
    for stage in (NATURAL, *PROTOCOLS):
        diagnoses = [folder.load_note(name, _LIKE) for name in _names(stage, spec)]
        if wanted and None in diagnoses:
            diagnoses = [
                folder.load_note(name, _LIKE) or _diagnose(context, spec, points, labels, name)
                for name, points, labels in _batches(context, spec, folder, stage)
            ]
        if diagnoses and None not in diagnoses:
            summaries[stage] = summarized(diagnoses)
    return json.dumps(summaries) if summaries else None


def _names(stage: str, spec: EvalSpec) -> list[str]:
    """Return the name of each batch's note, beside the batch's outcome."""
    batches = BatchPlan(size=spec.batches.size).ranges(spec.data.count)
    return [f"{stage}/{number:05d}" for number in range(len(batches))]


def _batches(
    context: RunContext, spec: EvalSpec, folder: RunFolder, stage: str
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each batch's name, final points (B, C, H, W), if they were kept, and labels (B,)."""
    inputs, size = context.inputs, spec.batches.size
    if stage == NATURAL:
        points = inputs.images
    else:
        units = range(len(spec.batches.ranges(spec.data.count)))
        kept = [folder.points(stage, unit) for unit in units]
        if any(batch is None for batch in kept):
            return
        points = torch.cat([torch.from_numpy(batch) for batch in kept if batch is not None])
    parts = zip(_names(stage, spec), points.split(size), inputs.labels.split(size), strict=True)
    for name, x, y in parts:
        yield name, x.to(context.worker.device), y.to(context.worker.device)


def _diagnose(
    context: RunContext, spec: EvalSpec, points: Tensor, labels: Tensor, name: str
) -> Diagnosis | None:
    """Adapt to a batch, write down its diagnosis and return it."""
    worker = context.worker
    dent = worker.model.defense_cache.of(spec)
    if not isinstance(dent, Dent):
        return None

    def diagnosed() -> Diagnosis:
        parts = points.split(worker.micro_batcher.size(spec) or len(points))
        return diagnose(dent, [(part, dent.adapt(part)) for part in parts])

    diagnosis = worker.micro_batcher.fit(spec, NATURAL, diagnosed)
    diagnosis["images"] = len(labels)
    diagnosis["labels"] = torch.bincount(labels, minlength=context.worker.classes).tolist()
    context.folder(spec).save_note(name, diagnosis)
    return diagnosis


def summarized(diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """Summarize the diagnoses of a stage's batches.

    Means over the images of :func:`~dentbench.adapt.diagnostics.diagnose`'s quantities, and all
    flips. ``label_balance`` and ``predicted_balance``: the mean over the batches of
    :func:`balance`, of the labels and of the adapted model's predictions.
    """
    columns: dict[str, list[Any]] = {
        name: [diagnosis[name] for diagnosis in diagnoses] for name in diagnoses[0]
    }
    weights = columns["images"]
    summary: dict[str, Any] = {"images": sum(weights)}
    for name in _MEANS:
        measured = None not in columns[name]
        summary[name] = _mean(columns[name], weights) if measured else None
    summary["flips"] = sum(columns["flips"])
    for name, counts in (("label_balance", "labels"), ("predicted_balance", "classes")):
        summary[name] = _mean([*map(balance, columns[counts])], [1] * len(diagnoses))
    return summary


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = math.fsum(value * weight for value, weight in zip(values, weights, strict=True))
    return float(f"{total / sum(weights):.6g}")


def balance(counts: Sequence[int]) -> float:
    """Return how evenly images are spread over the classes: from 0, all in a single class, to 1.

    The entropy of the shares over that of equal shares; ``counts`` (classes,).
    """
    total = sum(counts)
    shares = [count / total for count in counts if count]
    spread = -math.fsum(share * math.log(share) for share in shares)
    return spread / math.log(len(counts)) if len(counts) > 1 else 1.0
