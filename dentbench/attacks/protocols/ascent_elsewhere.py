"""An ascent in other batches than the declared: a defense may know its images by their company.

Points that are the worst in the declared batch lead where its answers lead, and a defense that is
another network in any other batch is hardly broken by them. Ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dentbench.attacks.apgd import apgd
from dentbench.attacks.base import Classifier, ThreatModel, margins, or_wrong
from dentbench.attacks.budget import invading_iterations
from dentbench.attacks.losses import make_loss
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.search import through


class Elsewhere(NamedTuple):
    """Which images (B,) are right at every iterate, and the points (B, C, H, W) that say so.

    The point of an image is that of its highest margin.
    """

    right: Tensor
    points: Tensor


def ascent_elsewhere(context: AttackContext, answer: Classifier, start: Tensor) -> Elsewhere:
    """Ascend the margins of ``answer``, the defense in other batches, from points of the ball.

    ``answer`` maps points (B, C, H, W) of the images to logits (B, classes), always in the same
    company; its own answer counts, at every iterate.
    """
    labels = context.labels
    best, points = start.new_full((len(start),), -torch.inf), start.clone()

    def on_iterate(x: Tensor, logits: Tensor | None) -> None:
        nonlocal best, points
        assert logits is not None
        margin = margins(or_wrong(logits, labels), labels).to(best.dtype)
        points = torch.where((margin > best)[:, None, None, None], x, points)
        best = torch.maximum(best, margin)

    apgd(
        through(answer, judges=True),
        make_loss("margin", labels),
        start,
        context.images,
        ThreatModel.of(context.spec.attack),
        invading_iterations(context.spec),
        on_iterate,
    )
    return Elsewhere(best <= 0, points)
