"""Define the threat model, and judge points afresh: an attack's own flags are never trusted."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.spec.evaluation import AttackSpec

Classifier: TypeAlias = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) in [0, 1] to logits (B, classes): a network, or a whole defense."""

OFFERS: Final = ("adapt", "predict", "unroll", "trajectory", "preprocess")
"""The methods that a defense may have beside being called, see :class:`Defense`."""


class Defense(typing.Protocol):
    """A defense in two parts; calling it composes them.

    Some also have ``unroll(x, last=None)``: the adaptation as a differentiable function of x,
    through the last so many steps; ``trajectory(x)``: the adaptations before every step and after
    the last, which is the adaptation; and ``preprocess(x, adaptation)``: the network's input.
    """

    def adapt(self, x: Tensor) -> Any:
        """Return the adaptation to a batch of images (B, C, H, W) in [0, 1], a constant."""

    def predict(self, x: Tensor, adaptation: Any) -> Tensor:
        """Return the logits (B, classes) of images under an adaptation to a batch of that size."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images after adapting to them."""


def offers(defense: object) -> frozenset[str]:
    """Return which parts of :data:`OFFERS` a defense has."""
    return frozenset(name for name in OFFERS if callable(getattr(defense, name, None)))


LEADS: Final = 30.0
"""The largest usual range of logits, in usual leads of the best class over the second."""

# A point counts as inside the ball when rounding alone explains the excess.
TOLERANCE: Final = 1e-5


@dataclass(frozen=True)
class ThreatModel:
    """An Lp ball of radius ``eps`` around each image, within the box [0, 1]."""

    norm: str
    eps: float

    @classmethod
    def of(cls, spec: AttackSpec) -> ThreatModel:
        """Return a spec's threat model."""
        return cls(spec.norm, float(spec.eps))

    def distance(self, points: Tensor, clean: Tensor) -> Tensor:
        """Return the distance (B,) of each point from its clean image, both (B, C, H, W)."""
        delta = (points - clean).flatten(1)
        order = {"Linf": float("inf"), "L2": 2.0, "L1": 1.0}[self.norm]
        distance: Tensor = torch.linalg.vector_norm(delta, ord=order, dim=1)
        return distance

    def contains(self, points: Tensor, clean: Tensor) -> Tensor:
        """Return, for each point, whether it is in the ball and in the box, up to rounding."""
        slack = self.eps * TOLERANCE + TOLERANCE / 10
        inside = self.distance(points, clean) <= self.eps + slack
        flat = points.flatten(1)
        return inside & (flat.amin(1) >= 0) & (flat.amax(1) <= 1)

    def project(self, points: Tensor, clean: Tensor) -> Tensor:
        """Return points (B, C, H, W) moved into the ball and the box; points that lie in both stay.

        Linf: the nearest points. L2 and L1: pulled straight towards the clean image.
        """
        if self.norm == "Linf":
            inside = torch.minimum(torch.maximum(points, clean - self.eps), clean + self.eps)
            return inside.clamp(0, 1)
        points = points.clamp(0, 1)
        distance = self.distance(points, clean)[:, None, None, None]
        pulled = clean + (points - clean) * (self.eps / distance)
        return torch.where(distance > self.eps, pulled, points)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the best wrong logit minus the right logit (B,): positive means misclassified."""
    right = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - right


def scale_of(logits: Tensor) -> float:
    """Return the scale of logits (B, classes), above 0, which their differences are divided by.

    It is their range, or :data:`LEADS` usual leads of the largest over the second logit where that
    is less: a class that is masked by a large negative number must not make all others look alike.
    """
    best = logits.detach().topk(min(2, logits.shape[1]), dim=1).values
    leads = best[:, 0] - best[:, -1]
    leads = leads[leads > 0]
    span = float(logits.max() - logits.min())
    usual = LEADS * float(leads.median()) if len(leads) else span
    return max(min(span, usual), 1e-12)


def answered(logits: Tensor) -> Tensor:
    """Return which rows (B,) of logits (B, classes) are an answer: finite numbers."""
    rows: Tensor = torch.isfinite(logits).all(1)
    return rows


def or_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits (B, classes) with a wrong answer in the place of every missing answer.

    A row with NaN or infinite numbers, at an adversarial point, is a success of the attack; there
    the logits are 1 for another class than the label and 0 for the others, without a gradient.
    """
    rows = answered(logits)
    if bool(rows.all()):
        return logits
    classes = logits.shape[1]
    wrong = F.one_hot((labels + 1) % classes, classes).to(logits)
    return torch.where(rows[:, None], logits, wrong)


@torch.no_grad()
def judge(classify: Classifier, points: Tensor, labels: Tensor) -> Tensor:
    """Return, image by image, whether ``classify`` is right on ``points`` (B, C, H, W)."""
    correct: Tensor = or_wrong(classify(points), labels).argmax(1) == labels
    return correct
