"""What a record says of a run beside its outcomes: relative time, diagnostics, the given order.

Each is kept beside the outcomes once it is made, so that a run that is resumed or repeated has
nothing left to do; a record carries whatever is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from dentbench.adapt.dent import Dent
from dentbench.adapt.diagnostics import Diagnosis, diagnose
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.evaluation.relative_time import time_ratio
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import AttackSpec, BatchPlan, EvalSpec

if TYPE_CHECKING:
    from dentbench.evaluation.runner import Evaluation

_MEANS: Final = (
    *("loss_before", "loss_after", "entropy_before", "entropy_after"),
    *("sigma", "gamma_moved", "beta_moved"),
)


def observations(evaluation: Evaluation, spec: EvalSpec) -> dict[str, Any]:
    """Return the columns ``natural_given_correct``, ``time_ratio`` and ``diagnostics``.

    Made now where the run's options ask for them, else only what an earlier run left.
    """
    return {
        "natural_given_correct": _natural_given(evaluation, spec),
        "time_ratio": _time_ratio(evaluation, spec),
        "diagnostics": _diagnostics(evaluation, spec),
    }


def _natural_given(evaluation: Evaluation, spec: EvalSpec) -> int | None:
    """Return how many images are right in the given order, where the run has another.

    It is the natural pass of the run on the given order, which has it in common.
    """
    from dentbench.evaluation.runner import Evaluation as Runner

    if evaluation.subject.given is None:
        return None
    subject, data = evaluation.subject.given
    if "given" not in evaluation.shared:
        evaluation.shared["given"] = Runner(subject, evaluation.options, evaluation.progress)
    twin: Evaluation = evaluation.shared["given"]
    outcomes = twin.outcomes(replace(spec, data=data), NATURAL)
    return sum(flag for outcome in outcomes for flag in outcome.correct)


def _time_ratio(evaluation: Evaluation, spec: EvalSpec) -> float | None:
    if spec.defense is None:
        return None
    folder = RunFolder(evaluation.options.results, spec)
    ratio: float | None = folder.load_note("time_ratio")
    if ratio is None and evaluation.options.measure_time:
        ratio = _measured_once(evaluation, spec)
        folder.save_note("time_ratio", ratio)
    return ratio


def _measured_once(evaluation: Evaluation, spec: EvalSpec) -> float:
    """Return the relative time, which does not depend on the attack, measured if need be."""
    key = "time " + replace(spec, attack=AttackSpec()).key()
    if key not in evaluation.shared:
        batch = evaluation.subject.images[: spec.batches.size].to(evaluation.worker.device)
        static = replace(spec, defense=None)
        ratio = evaluation.worker.fit(
            spec,
            NATURAL,
            lambda: time_ratio(evaluation.classifier(static), evaluation.classifier(spec), batch),
        )
        evaluation.shared[key] = round(ratio, 3)
    measured: float = evaluation.shared[key]
    return measured


# --- diagnostics ----------------------------------------------------------------------------------


def _diagnostics(evaluation: Evaluation, spec: EvalSpec) -> str | None:
    """Return the summaries by stage, JSON, of every stage whose batches are all diagnosed.

    The natural images are a stage; a protocol is one where its final points were kept.
    """
    if spec.defense is None:
        return None
    folder = RunFolder(evaluation.options.results, spec)
    wanted = evaluation.options.diagnostics
    found = {}
    for stage in (NATURAL, *PROTOCOLS):
        diagnoses = [folder.load_note(name) for name in _names(stage, spec)]
        if wanted and None in diagnoses:
            diagnoses = [
                folder.load_note(name) or _diagnose(evaluation, spec, points, labels, name)
                for name, points, labels in _batches(evaluation, spec, folder, stage)
            ]
        if diagnoses and None not in diagnoses:
            found[stage] = summarized(diagnoses)
    return json.dumps(found) if found else None


def _names(stage: str, spec: EvalSpec) -> list[str]:
    """Return the name of each batch's note, beside the batch's outcome."""
    batches = BatchPlan(size=spec.batches.size).ranges(spec.data.count)
    return [f"{stage}/{number:05d}" for number in range(len(batches))]


def _batches(
    evaluation: Evaluation, spec: EvalSpec, folder: RunFolder, stage: str
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield each batch's name, final points (B, C, H, W), if they were kept, and labels (B,)."""
    subject, size = evaluation.subject, spec.batches.size
    if stage == NATURAL:
        points = subject.images
    else:
        units = range(len(spec.batches.ranges(spec.data.count)))
        kept = [folder.points(stage, unit) for unit in units]
        if any(one is None for one in kept):
            return
        points = torch.cat([torch.from_numpy(one) for one in kept if one is not None])
    parts = zip(_names(stage, spec), points.split(size), subject.labels.split(size), strict=True)
    for name, x, y in parts:
        yield name, x.to(evaluation.worker.device), y.to(evaluation.worker.device)


def _diagnose(
    evaluation: Evaluation, spec: EvalSpec, points: Tensor, labels: Tensor, name: str
) -> Diagnosis | None:
    """Adapt to one batch, write down what that did and return it."""
    worker = evaluation.worker
    dent = worker.defenders.of(spec)
    if not isinstance(dent, Dent):
        return None

    def diagnosed() -> Diagnosis:
        parts = points.split(worker.room.size(spec) or len(points))
        return diagnose(dent, [(part, dent.adapt(part)) for part in parts])

    found = worker.fit(spec, NATURAL, diagnosed)
    found["images"] = len(labels)
    found["labels"] = torch.bincount(labels, minlength=evaluation.worker.classes).tolist()
    RunFolder(evaluation.options.results, spec).save_note(name, found)
    return found


def summarized(diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """Return the diagnoses of a stage's batches as one.

    Means over the images of what :func:`~dentbench.adapt.diagnostics.diagnose` measures, and all
    flips. ``label_balance`` and ``predicted_balance``: the mean over the batches of
    :func:`balance`, of the labels and of the adapted model's predictions.
    """
    columns: dict[str, list[Any]] = {
        name: [one[name] for one in diagnoses] for name in diagnoses[0]
    }
    weights = columns["images"]
    found: dict[str, Any] = {"images": sum(weights)}
    for name in _MEANS:
        known = None not in columns[name]
        found[name] = _mean(columns[name], weights) if known else None
    found["flips"] = sum(columns["flips"])
    for name, counts in (("label_balance", "labels"), ("predicted_balance", "classes")):
        found[name] = _mean([*map(balance, columns[counts])], [1] * len(diagnoses))
    return found


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = math.fsum(value * weight for value, weight in zip(values, weights, strict=True))
    return float(f"{total / sum(weights):.6g}")


def balance(counts: Sequence[int]) -> float:
    """Return how evenly images are spread over the classes: 1 is evenly, 0 is all in one.

    The entropy of the shares over that of equal shares; ``counts`` has one per class.
    """
    total = sum(counts)
    shares = [count / total for count in counts if count]
    spread = -math.fsum(share * math.log(share) for share in shares)
    return spread / math.log(len(counts)) if len(counts) > 1 else 1.0
