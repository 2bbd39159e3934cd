"""Judge images in other batches than the declared batch, beside other images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dentbench.attacks.protocols.base import AttackContext


def divisions(
    images: int, generator: torch.Generator, parts: int = 2, by: Tensor | None = None
) -> list[Tensor]:
    """Return the rows of a unit of ``images``, divided into ``parts`` groups of about equal size.

    At random, or with ``by`` (B,) so that rows of near values come together.
    """
    order = torch.randperm(images, generator=generator)
    if by is not None:
        order = order[by.cpu()[order].argsort(stable=True)]
    return [group for group in order.tensor_split(parts) if len(group)]


def companions(
    context: AttackContext, group: Tensor, generator: torch.Generator, *, alike: bool = False
) -> Tensor:
    """Return natural images that fill up a group's batch to the size of the unit.

    They come from other units first, then from the unit's images outside the group, in random
    order, as often as needed. ``alike``: those of the labels in the group come first.
    """
    images, labels = context.images, context.labels
    outside = (
        torch.ones(len(images), dtype=torch.bool).index_fill(0, group, False).to(labels.device)
    )
    pool, pool_labels = images[outside], labels[outside]
    order = torch.randperm(len(pool), generator=generator)
    if context.others is not None and len(context.others):
        assert context.other_labels is not None
        first = torch.randperm(len(context.others), generator=generator)
        order = torch.cat([first, order + len(first)])
        pool = torch.cat([context.others, pool])
        pool_labels = torch.cat([context.other_labels, pool_labels])
    if alike:
        same = torch.isin(pool_labels, labels[group.to(labels.device)]).cpu()[order]
        order = torch.cat([order[same], order[~same]])
    missing = len(images) - len(group)
    if not len(order):
        return pool
    order = order.repeat(-(-missing // len(order)))[:missing]
    return pool[order.to(pool.device)]


def judged_in(
    context: AttackContext,
    points: Tensor,
    groups: Sequence[Tensor],
    generator: torch.Generator,
    *,
    alike: bool = False,
) -> Tensor:
    """Return the defense's logits (B, classes) for ``points`` (B, C, H, W), group by group.

    Each group is shown in random order among natural companions, in a batch of the unit's size.
    """
    logits = []
    for group in groups:
        mates = companions(context, group, generator, alike=alike)
        batch = torch.cat([points[group.to(points.device)], mates])
        order = torch.randperm(len(batch), generator=generator)
        answer = context.defense(batch[order.to(batch.device)])
        logits.append(answer[order.argsort()[: len(group)].to(batch.device)])
    back = torch.cat(list(groups)).argsort().to(points.device)
    return torch.cat(logits)[back]


def judged_alone(context: AttackContext, points: Tensor) -> Tensor:
    """Return the defense's logits (B, classes) for points that are each shown alone."""
    return torch.cat([context.defense(point[None]) for point in points])
