"""The expectation over random batch mates, orders and numbers, and how its draws are joined.

Sources: Athalye et al. 2018 (arXiv 1707.07397) for the mean; Wang et al., NeurIPS 2024
(DiffHammer, code Ka1b0/DiffHammer) for the weights, by which draws that nothing within eps breaks
do not pull the others along. The choice of batch mates is ours.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.attacks.apgd import GradientFn, LossAndGrad
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.budget import ascents_of
from dentbench.attacks.losses import Loss
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.rebatching import divisions, judged_in
from dentbench.attacks.protocols.search import Search, through
from dentbench.spec.evaluation import derive_seed

STEPS: Final = 5
"""How often the weights and the direction are computed from each other."""

SHARPNESS: Final = 4.0
"""How steeply a draw's weight falls, in units of the draws' mean absolute loss."""


def eot(context: AttackContext) -> AttackResult:
    """Follow the joined gradient over random batch mates, orders and random numbers.

    For a coupled defense every draw divides the unit at random in two; each half is shown among
    natural images of other units, in random order. Success is judged on the declared batch.
    """
    search = Search(context, "eot")
    spec = context.spec
    seed = derive_seed(spec.seed, "eot", context.unit)
    generator = torch.Generator().manual_seed(seed)

    def once(x: Tensor) -> Tensor:
        if not search.coupled:
            return context.defense(x)
        whole = search.whole(x)
        groups = divisions(len(whole), generator)
        return judged_in(context, whole, groups, generator)[search.rows]

    threat = search.threat if spec.protocols.eot == "weighted" else None
    gradient_fn = expected(through(once), spec.protocols.draws, threat)
    search.ascend_all(gradient_fn, ascents_of(spec, "eot", context.classes))
    return search.result()


def expected(gradient_fn: GradientFn, draws: int, threat: ThreatModel | None) -> GradientFn:
    """Return the gradient function of the mean loss over ``draws``, and of their gradients joined.

    ``threat``: that within which a draw may be broken, for :func:`selective`; None for the mean.
    """

    def join(points: Tensor, loss: Loss) -> LossAndGrad:
        results = [gradient_fn(points, loss) for _ in range(draws)]
        losses = torch.stack([current.loss for current in results])
        gradients = torch.stack([current.gradient for current in results])
        if threat is None:
            return LossAndGrad(losses.mean(0), gradients.mean(0))
        return LossAndGrad(losses.mean(0), selective(losses, gradients, threat))

    return join


def selective(losses: Tensor, gradients: Tensor, threat: ThreatModel) -> Tensor:
    """Return the gradient (n, C, H, W) for draws of ``losses`` (N, n) and ``gradients``.

    A draw counts by how high its loss would be a step of eps away along the common direction. The
    direction begins as the gradient of the draw that helps most of the draws, and goes on as the
    weighted mean. ``gradients``: (N, n, C, H, W).
    """
    flat = gradients.flatten(2)
    others = torch.einsum("ind,jnd->ijn", _unit(flat, threat), flat)
    helped = F.elu(losses + threat.eps * others).sum(1)
    best = helped.argmax(0)
    direction = flat[best, torch.arange(len(best), device=best.device)]
    scale = SHARPNESS / losses.abs().mean(0).clamp_min(1e-12)
    for _ in range(STEPS):
        promised = losses + threat.eps * (_unit(direction, threat) * flat).sum(2)
        weights = (scale * promised).sigmoid()[:, :, None]
        direction = (weights * flat).sum(0) / weights.sum(0).clamp_min(1e-30)
    return direction.view_as(gradients[0])


def _unit(gradients: Tensor, threat: ThreatModel) -> Tensor:
    """Return the steepest step of length 1, for gradients (..., D)."""
    return gradients.sign() if threat.norm == "Linf" else F.normalize(gradients, dim=-1)
