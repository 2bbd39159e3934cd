"""Recombined batches: images at points that are there already, drawn anew for every batch.

A defense that adapts to a batch until it is sure flips an answer by what the batch mates drag
along, and a gradient through many adaptation steps does not lead there. Many batches do, and an
answer costs less than half of such a gradient. The choice of points is ours.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from dentbench.attacks.apgd import random_start
from dentbench.attacks.attack_events import announce
from dentbench.attacks.base import ThreatModel, margins, or_wrong
from dentbench.attacks.budget import KEPT_BATCHES, recombined_batches
from dentbench.attacks.protocols.base import AttackContext
from dentbench.spec.evaluation import derive_seed

AT_RANDOM: Final = 0.3
"""The share of a batch's images that are at random points, and not at points found before."""

EVERY: Final = 50
"""Progress is told after so many batches."""


class Recombined(NamedTuple):
    """Whether an image is right in all recombined batches (B,), and batches that break some.

    In each of ``batches`` (B, C, H, W) an image is wrong that is right in those before.
    """

    right: Tensor
    batches: tuple[Tensor, ...]


def recombined(context: AttackContext, found: tuple[Tensor, ...], left: Tensor) -> Recombined:
    """Ask the defense about many batches of points of all images, each image at its own.

    ``found``: points (B, C, H, W) in the ball, such as those of earlier stages. In every batch
    each image is at one of its own, or at a random point of the ball. ``left`` (B,): the images
    that nothing has broken so far; it ends early when none is left, or enough batches are kept.
    """
    images, threat = context.images, ThreatModel.of(context.spec.attack)
    seed = derive_seed(context.spec.seed, "recombined", context.unit)
    generator = torch.Generator().manual_seed(seed)
    pool, rows = torch.stack(found), torch.arange(len(images), device=images.device)
    right, left = torch.ones_like(left), left.clone()
    kept: list[Tensor] = []
    for number in range(recombined_batches(context.spec)):
        if not left.any() or len(kept) == KEPT_BATCHES:
            break
        if number % EVERY == 0:
            announce(f"recombined batch {number + 1}", int(left.sum()), len(left))
        source = torch.randint(len(pool), (len(images),), generator=generator).to(rows)
        at_random = (torch.rand(len(images), generator=generator) < AT_RANDOM).to(images.device)
        noise = threat.project(random_start(images, threat, generator), images)
        batch = torch.where(at_random[:, None, None, None], noise, pool[source, rows])
        with torch.no_grad():
            logits = or_wrong(context.defense(batch), context.labels)
        wrong = margins(logits, context.labels) > 0
        right &= ~wrong
        if (wrong & left).any():
            kept.append(batch)
            left &= ~wrong
    return Recombined(right, tuple(kept))
