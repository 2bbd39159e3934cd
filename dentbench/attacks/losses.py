"""The losses of logits that attacks maximize, a value per image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from dentbench.attacks.base import margins

Loss: TypeAlias = Callable[[Tensor], Tensor]
"""Maps logits (n, classes) of n images to n values; the larger, the closer to a mistake."""

_TINY = 1e-12


def make_loss(name: str, labels: Tensor, targets: Tensor | None = None) -> Loss:
    """Return a loss for images with these ``labels`` (n,) and, if targeted, ``targets`` (n,).

    ``name``: "ce"; "margin", the best wrong logit minus the right logit; or "dlr", the margin over
    a difference of the largest logits, so that scaling the logits does not change it. With
    targets the margin is the target's. DLR needs three classes, targeted four; with fewer it is
    the margin. Source of DLR: arXiv 2003.01690. Raises ``KeyError`` for an unknown name.
    """
    loss = {"ce": _cross_entropy, "margin": _margin, "dlr": _dlr}[name]
    return lambda logits: loss(logits, labels, targets)


def _cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    if targets is not None:
        return -F.cross_entropy(logits, targets, reduction="none")
    return F.cross_entropy(logits, labels, reduction="none")


def _margin(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        return margins(logits, labels)
    both = logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])
    return both.squeeze(1)


def _dlr(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    margin = _margin(logits, labels, targets)
    needed = 3 if targets is None else 4
    if logits.shape[1] < needed:
        return margin
    top = logits.topk(needed, dim=1).values
    below = top[:, 2] if targets is None else (top[:, 2] + top[:, 3]) / 2
    return margin / (top[:, 0] - below + _TINY)


def ranked_targets(logits: Tensor, labels: Tensor, rank: int) -> Tensor:
    """Return the wrong class (n,) of the ``rank``-th highest logit, the first being 0."""
    order = logits.scatter(1, labels[:, None], float("-inf")).argsort(dim=1, descending=True)
    return order[:, rank]
