"""APGD, the base attack of every view of a defense: one ascent of a loss inside the ball.

The gradient (``gradient_fn``) and the judge of success (``on_iterate``) are handed in separately
and may be different functions: that is all that distinguishes the protocols.
Source: Croce and Hein 2020 (arXiv 2003.01690), whose step sizes and checkpoints these are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor

from dentbench.attacks.base import ThreatModel
from dentbench.attacks.losses import Loss
from dentbench.attacks.protocol_cards import OWN_NORMS
from dentbench.errors import SpecError

MOMENTUM: Final = 0.75
RISING: Final = 0.75
"""The share of steps that must raise the loss between two checkpoints for a step size to stay."""


@dataclass(frozen=True)
class LossAndGrad:
    """The loss at points: ``loss`` (n,) and its ``gradient`` (n, C, H, W).

    ``logits`` (n, classes): the defense's own answer, where it was computed along the way.
    """

    loss: Tensor
    gradient: Tensor
    logits: Tensor | None = None


GradientFn: TypeAlias = Callable[[Tensor, Loss], LossAndGrad]
"""Maps points (n, C, H, W) and a loss to both; the gradient need not be true."""

OnIterate: TypeAlias = Callable[[Tensor, Tensor | None], object]
"""A callback on every iterate (n, C, H, W), with the defense's logits where they are there."""


def ignore(points: Tensor, logits: Tensor | None) -> None:
    """Ignore an iterate."""
    del points, logits


def apgd(
    gradient_fn: GradientFn,
    loss: Loss,
    start: Tensor,
    clean: Tensor,
    threat: ThreatModel,
    iterations: int,
    on_iterate: OnIterate = ignore,
) -> Tensor:
    """Return the points (n, C, H, W) of the highest loss found in ``iterations`` steps.

    ``start`` and ``clean`` (n, C, H, W) in [0, 1]; the start is projected, and every iterate lies
    in the ball and in the box. Each image has a step size of its own: 2 eps at first, halved, and
    the image put back to its best point, at every checkpoint since which its loss rose too rarely
    or its best did not improve. Costs ``iterations`` + 1 gradients. Raises
    :class:`~dentbench.errors.SpecError` for a norm that it does not know.
    """
    if threat.norm not in OWN_NORMS:
        raise SpecError(
            f"norm is {threat.norm!r}; this attack knows {' and '.join(OWN_NORMS)} only"
        )
    points = threat.project(start.detach(), clean)
    before = points
    current = gradient_fn(points, loss)
    on_iterate(points, current.logits)
    gradient = current.gradient
    state = _Progress(points, current, threat.eps, iterations)
    for number in range(iterations):
        moved = threat.project(points + state.step * _direction(gradient, threat), clean)
        if number:
            mixed = points + MOMENTUM * (moved - points) + (1 - MOMENTUM) * (points - before)
            moved = threat.project(mixed, clean)
        before, points = points, moved
        current = gradient_fn(points, loss)
        on_iterate(points, current.logits)
        points, gradient = state.update(points, current)
    return state.best


class _Progress:
    """The best point, loss and gradient of each image so far, and its step size."""

    def __init__(self, points: Tensor, current: LossAndGrad, eps: float, iterations: int) -> None:
        self.best, self.loss, self.gradient = points, current.loss, current.gradient
        self.step = torch.full_like(current.loss, 2 * eps)[:, None, None, None]
        self._window = max(int(0.22 * iterations), 1)
        self._smallest = max(int(0.06 * iterations), 1)
        self._shrink = max(int(0.03 * iterations), 1)
        self._taken = 0
        self._last = current.loss
        self._rises = torch.zeros_like(current.loss)
        self._at_checkpoint = current.loss
        self._halved = torch.ones_like(current.loss, dtype=torch.bool)

    def update(self, points: Tensor, current: LossAndGrad) -> tuple[Tensor, Tensor]:
        """Take note of an iterate; return the point and the gradient to go on from."""
        better = current.loss > self.loss
        self.best = _where(better, points, self.best)
        self.gradient = _where(better, current.gradient, self.gradient)
        self.loss = torch.where(better, current.loss, self.loss)
        self._rises = self._rises + (current.loss > self._last)
        self._last = current.loss
        self._taken += 1
        if self._taken < self._window:
            return points, current.gradient
        stuck = self._checkpoint()
        return _where(stuck, self.best, points), _where(stuck, self.gradient, current.gradient)

    def _checkpoint(self) -> Tensor:
        """Halve the step sizes that no longer help; return which images have them."""
        stuck = self._rises <= RISING * self._taken
        stuck |= ~self._halved & (self._at_checkpoint >= self.loss)
        self.step = torch.where(stuck[:, None, None, None], self.step / 2, self.step)
        self._halved, self._at_checkpoint = stuck, self.loss
        self._rises = torch.zeros_like(self._rises)
        self._window = max(self._window - self._shrink, self._smallest)
        self._taken = 0
        return stuck


def _where(rows: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    return torch.where(rows[:, None, None, None], ours, theirs)


def _direction(gradient: Tensor, threat: ThreatModel) -> Tensor:
    """Return the steepest step of length one in the threat model's norm; zero for no gradient."""
    if threat.norm == "Linf":
        return gradient.sign()
    length = gradient.flatten(1).norm(dim=1)[:, None, None, None]
    unit: Tensor = gradient / length.clamp_min(1e-12)
    return unit


def random_start(clean: Tensor, threat: ThreatModel, generator: torch.Generator) -> Tensor:
    """Return points drawn as AutoAttack draws them: on the ball's surface, then clipped.

    ``generator`` lives on the CPU, so that every device draws the same points.
    """
    draw = torch.rand if threat.norm == "Linf" else torch.randn
    noise = draw(clean.shape, generator=generator).to(clean)
    if threat.norm == "Linf":
        noise = 2 * noise - 1
    noise = noise / ThreatModel(threat.norm, 1.0).distance(noise, torch.zeros_like(noise))[
        :, None, None, None
    ].clamp_min(1e-12)
    return threat.project(clean + threat.eps * noise, clean)
