"""Judge points in batches, and describe them for an outcome: their norms and their places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, answered, or_wrong
from dentbench.errors import ModelError
from dentbench.evaluation.inputs import RunInputs
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import DentSpec, EvalSpec
from dentbench.zoo.images.arrays import label_windows


@torch.no_grad()
def judged_logits(classify: Classifier, points: Tensor, size: int) -> Tensor:
    """Return the logits (B, classes) of points as they are judged, in batches of ``size``."""
    return torch.cat([classify(x) for x in points.split(size)])


@torch.no_grad()
def judge_in_batches(
    classify: Classifier, points: Tensor, labels: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Return, image by image, whether ``classify`` is right, and whether it answers at all.

    It is shown batches of ``size`` in order. NaN and infinite logits are no answer, and wrong.
    """
    logits = judged_logits(classify, points, size)
    right: Tensor = or_wrong(logits, labels).argmax(1) == labels
    return right, answered(logits)


def right_in_all(
    classify: Classifier, batches: Sequence[Tensor], labels: Tensor, size: int
) -> Tensor:
    """Return which images (B,) ``classify`` is right on in each of some batches (B, C, H, W)."""
    right = torch.ones_like(labels, dtype=torch.bool)
    for batch in batches:
        right &= judge_in_batches(classify, batch, labels, size)[0]
    return right


def require_answers(spec: EvalSpec, stage: str, answers: Tensor) -> None:
    """Raise :class:`~dentbench.errors.ModelError` where NaN is no success of an attack.

    ``answers`` (B,): whether the final points of a batch got an answer. A network is to answer
    every natural image, a defense some of them, and a network some of its adversarial points.
    """
    natural, static = stage == NATURAL, spec.defense is None
    whole = not bool(answers.any())
    if (natural and (whole or (static and not bool(answers.all())))) or (static and whole):
        lower = isinstance(spec.defense, DentSpec) and spec.defense.steps
        raise ModelError(
            f"the {'model' if static else 'defense'} answered with NaN or infinite logits, or "
            f"raised an error, for {int((~answers).sum())} of {len(answers)} "
            f"{'natural images' if natural else 'points'}"
            "; nothing was recorded for this batch"
            + ("; dent may diverge: try a lower learning rate (--lr)" if lower else "")
        )


def error_in_batch(error: ModelError, spec: EvalSpec, stage: str, unit: int) -> ModelError:
    """Return an error with its batch named, and how to go without a last batch that is short."""
    units = spec.batches.ranges(spec.data.count)
    text = f"{spec.label} {stage}, batch {unit + 1} of {len(units)}: {error}"
    images, usual, before = len(units[unit]), len(units[0]), units[unit].start
    if images < usual:
        text += f"; this batch has {images} of the others' {usual} images: --examples {before} "
        text += "leaves it out"
    return ModelError(text)


def norms(perturbations: Tensor) -> dict[str, tuple[float, ...]]:
    """Return the norms, by name, of perturbations (B, C, H, W), image by image."""
    flat = perturbations.detach().flatten(1).double()
    orders = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
    return {
        name: tuple(torch.linalg.vector_norm(flat, order, dim=1).tolist())
        for name, order in orders.items()
    }


def places(inputs: RunInputs, spec: EvalSpec) -> list[int]:
    """Return the number in the data set of each image."""
    first, window = spec.data.first, spec.data.window
    if inputs.given is None or window is None:
        return list(range(first, first + len(inputs.labels)))
    return (first + label_windows(inputs.given[0].labels, window)).tolist()
