"""FPA and GMSA: attack fixed networks, the static network and those that the defense adapted.

In every round the fixed networks are attacked, the defense adapts to the points, and the
adapted network, kept as an adaptation, joins them. Source: Chen et al., ICLR 2022
(arXiv 2110.14735) and its code (jfc43/eval-transductive-robustness). Ours: the steps are APGD's, so
that they fit every eps and norm; the points of every start are judged, not the last round's only;
GMSA-MIN takes as many steps as the others, not as many times more as there are networks; and in a
cascade round 0, which attacks the static network alone, is replaced by the best points so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dentbench.attacks.apgd import GradientFn, LossAndGrad
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import Classifier
from dentbench.attacks.budget import ascents_of
from dentbench.attacks.losses import Loss, make_loss
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.search import Search, differentiate

Join: TypeAlias = Callable[[Tensor], Tensor]
"""Combines the losses (networks, n) of some networks into a loss (n,)."""


def fpa(context: AttackContext) -> AttackResult:
    """Attack the newest adapted network only: the fixed-point attack."""
    return _rounds(context, "fpa", lambda losses: losses[-1], newest=True)


def gmsa_avg(context: AttackContext) -> AttackResult:
    """Attack the mean of the losses over the static and all adapted networks."""
    return _rounds(context, "gmsa-avg", lambda losses: losses.mean(0))


def gmsa_min(context: AttackContext) -> AttackResult:
    """Attack the least of the losses over the static and all adapted networks."""
    return _rounds(context, "gmsa-min", lambda losses: losses.amin(0))


def _rounds(context: AttackContext, stage: str, join: Join, newest: bool = False) -> AttackResult:
    """Carry out all rounds; ``newest``: only the newest network is attacked and kept."""
    search = Search(context, stage)
    networks = _Networks(search, newest=newest)
    settings = context.spec.protocols
    ascents = ascents_of(context.spec, stage, context.classes)
    for number in range(settings.rounds):
        if not len(search.rows):
            break
        if number == 0 and context.starts:
            points = search.points.clone()
        else:
            gradient_fn = ensemble(networks.fixed(), join)
            points = _strongest(search, gradient_fn, ascents, number * len(ascents))
        networks.add(points)
        search.prune()
    return search.result()


def _strongest(search: Search, gradient_fn: GradientFn, ascents: Any, first: int) -> Tensor:
    """Return each image's point of the highest margin by ``gradient_fn``, for the unit."""
    margin = make_loss("margin", search.labels)
    clean = search.clean
    best, highest = clean, gradient_fn(clean, margin).loss
    for number, ascent in enumerate(ascents, first):
        points = search.ascend(gradient_fn, ascent, number, blind=True)
        search.see(points)
        losses = gradient_fn(points, margin).loss
        best = torch.where((losses > highest)[:, None, None, None], points, best)
        highest = torch.maximum(losses, highest)
    return search.frame.index_put((search.rows,), best)


def ensemble(networks: list[Classifier], join: Join) -> GradientFn:
    """Return the gradient function of the joined loss of fixed networks."""

    def gradient_fn(points: Tensor, loss: Loss) -> LossAndGrad:
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            values = join(torch.stack([loss(network(leaf)) for network in networks]))
        return LossAndGrad(values.detach(), differentiate(values, leaf))

    return gradient_fn


class _Networks:
    """The static network, and the networks adapted to each round's points (B, C, H, W)."""

    def __init__(self, search: Search, *, newest: bool) -> None:
        self.search = search
        self.newest = newest
        self.defense: Any = search.context.defense
        self._points: list[Tensor] = []
        self._adaptations: list[Any] = []
        self._rows = search.rows

    def add(self, points: Tensor) -> None:
        """Let the defense adapt to ``points``, judge them, and keep the adaptation."""
        search = self.search
        self._refresh()
        adaptation = self._adapt(points)
        with torch.no_grad():
            logits = self._fixed(adaptation)(points[search.rows])
        search.see(points[search.rows], logits)
        keep = 0 if self.newest else len(self._points)
        self._points = [*self._points[:keep], points]
        self._adaptations = [*self._adaptations[:keep], adaptation]

    def fixed(self) -> list[Classifier]:
        """Return the networks to attack, as functions of the points of the search's rows."""
        self._refresh()
        adapted = [self._fixed(adaptation) for adaptation in self._adaptations]
        if self.newest and adapted:
            return adapted
        assert self.search.context.network is not None
        return [self.search.context.network, *adapted]

    def _refresh(self) -> None:
        """Adapt anew, to the images that are left: an adaptation has a row for each of them."""
        if len(self._rows) != len(self.search.rows):
            self._rows = self.search.rows
            self._adaptations = [self._adapt(points) for points in self._points]

    def _adapt(self, points: Tensor) -> Any:
        return self.defense.adapt(self.search.whole(points[self.search.rows]))

    def _fixed(self, adaptation: Any) -> Classifier:
        return self.search.shown(lambda x: self.defense.predict(x, adaptation))
