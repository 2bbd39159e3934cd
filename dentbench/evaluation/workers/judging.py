"""Judge points in batches, and describe them for an outcome: their norms and their places."""

from __future__ import annotations

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, judge
from dentbench.evaluation.inputs import RunInputs
from dentbench.spec.evaluation import EvalSpec
from dentbench.zoo.arrays import label_windows


def judge_in_batches(classify: Classifier, points: Tensor, labels: Tensor, size: int) -> Tensor:
    """Return, image by image, whether ``classify`` is right, shown batches of ``size`` in order."""
    parts = [
        judge(classify, x, y) for x, y in zip(points.split(size), labels.split(size), strict=True)
    ]
    return torch.cat(parts)


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
