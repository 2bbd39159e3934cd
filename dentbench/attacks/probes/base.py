"""Define the defense under examination, its points, and the comparison of two answers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from dentbench.attacks.apgd import random_start
from dentbench.attacks.base import (
    OFFERS,
    Classifier,
    ThreatModel,
    answered,
    margins,
    scale_of,
)
from dentbench.attacks.protocol_cards import OWN_NORMS

IMAGES: Final = 16
"""How many images are asked for gradients."""

LEAST_SHOWN: Final = 32
"""The fewest images that checks ask about, where there are so many, in as many batches as it takes.

A defense that lies about one image in ten would pass with a chance of 3%; about the first image of
a batch of one alone, always.
"""


class FiniteDefense:
    """A defense that answers with zeros where its logits are no numbers, so that they compare."""

    def __init__(self, defense: Any) -> None:
        self.defense = defense

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        return _finite(self.defense(x))

    def __getattr__(self, name: str) -> Any:
        if name not in OFFERS:
            raise AttributeError(name)
        part = getattr(self.defense, name)
        if name == "predict":
            return lambda x, adaptation: _finite(part(x, adaptation))
        return part


def _finite(logits: Tensor) -> Tensor:
    rows = answered(logits)
    return logits if bool(rows.all()) else torch.where(rows[:, None], logits, 0)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A defense under examination.

    ``make()`` returns the defense as it was before any question, each time afresh if it can be
    copied (``copies``), and ``make(other)`` with the random numbers that ``other`` draws next.
    ``images`` (B, C, H, W), ``labels`` (B,) and ``numbers``, those of the images in the run: a
    batch of the declared size, or several small ones, drawn from all images (see :func:`drawn`),
    which the defense answers in batches of that size; ``separable`` and
    ``random``: as the spec declares; ``steps``: the adaptation steps of dent, None where there
    are none; ``iterations``: those of the attack; ``network``: the static model, where it is asked
    too.
    """

    make: Callable[..., Classifier]
    copies: bool
    images: Tensor
    labels: Tensor
    numbers: Sequence[int]
    threat: ThreatModel
    separable: bool
    steps: int | None
    seed: int
    iterations: int = 100
    network: Classifier | None = None
    random: bool = False

    @property
    def few(self) -> tuple[Tensor, Tensor]:
        """The images and labels that are asked for gradients."""
        return self.images[:IMAGES], self.labels[:IMAGES]

    def random_points(self, clean: Tensor, number: int) -> Tensor:
        """Return random points of the ball around clean images, the same for the same number."""
        if self.threat.norm not in OWN_NORMS:
            return clean.flip(-1)
        generator = torch.Generator().manual_seed(self.seed + number)
        return random_start(clean, self.threat, generator)

    @cached_property
    def perturbed(self) -> Tensor:
        """The images (B, C, H, W) attacked a little: one step up the margin from a random point."""
        start = self.random_points(self.images, 0)
        if self.threat.norm not in OWN_NORMS:
            return start
        slope = gradient_of(self.make(), start, self.labels)
        slope = torch.zeros_like(start) if slope is None else torch.nan_to_num(slope)
        if self.threat.norm == "Linf":
            return self.threat.project(start + self.threat.eps * slope.sign(), self.images)
        length = slope.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        return self.threat.project(start + self.threat.eps * slope / length, self.images)


def drawn(count: int, size: int, seed: int) -> list[int]:
    """Return which of ``count`` images are shown, as many as whole batches of ``size`` have.

    It is one batch, or several small ones with :data:`LEAST_SHOWN` images or more. Half of the
    images are the first and half are of all others, in an order drawn too: a defense that is honest
    for the first images, for some batches or at some places in a batch alone would pass every check
    that asks about the first images. All in their order where there are no more.
    """
    size *= math.ceil(LEAST_SHOWN / size)
    if count <= size:
        return [*range(count)]
    draw = random.Random(seed)
    rows = draw.sample(range(size), size - size // 2)
    rows += draw.sample(range(size, count), min(size // 2, count - size))
    left = [row for row in range(size) if row not in rows]
    rows += left[: size - len(rows)]
    draw.shuffle(rows)
    return rows


def gradient_of(forward: Classifier, x: Tensor, labels: Tensor) -> Tensor | None:
    """Return the gradient (B, C, H, W) of the summed margins, or None where there is none."""
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        total = margins(forward(leaf), labels).sum()
        if not total.requires_grad:
            return None
        gradient: Any
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    result: Tensor | None = gradient
    return result


def relative_change(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference of two answers as a share of the range of logits."""
    return float((ours - theirs).abs().max()) / scale_of(theirs)
