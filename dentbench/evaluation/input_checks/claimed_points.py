"""Check that points handed in can be those of a run."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.base import ThreatModel
from dentbench.errors import DataError
from dentbench.records.checkpoint import Points

SLACK: Final = 1.05
"""How far a point may lie away, in shares of eps; rounding to 8 bits is allowed beside it."""


def require_fitting(points: Points, images: Tensor, threat: ThreatModel) -> None:
    """Raise :class:`~dentbench.errors.DataError` unless points are near the images of a run.

    ``points`` and ``images`` (N, C, H, W) in [0, 1]; points that rounding alone brings out of the
    ball are projected later.
    """
    if points.shape != tuple(images.shape):
        raise DataError(
            f"the points are of shape {points.shape}, but the run's images are of shape "
            f"{tuple(images.shape)}; give one point for each image, in the run's order"
        )
    distance = threat.distance(torch.from_numpy(points), images.cpu())
    flat = torch.full_like(images[:1].cpu(), 0.5 / 255)
    rounding = threat.distance(flat, torch.zeros_like(flat))
    far = int((distance > SLACK * threat.eps + rounding).sum())
    if far:
        raise DataError(
            f"{far} of {len(points)} points are further than eps {threat.eps:.4g} in {threat.norm} "
            f"from their images (up to {float(distance.max()):.4g}): they are of another eps, "
            "norm, slice or order"
        )
