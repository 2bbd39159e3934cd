"""Perturb batches of a stream so that later batches break, where a defense carries state.

Ours, in the threat model of every other protocol: the attacker moves the images of a few batches
before the unit within eps, and knows the defense and the unit that comes. Sources of poisoned
state: arXiv 2308.08505 and arXiv 2410.04682.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dentbench.attacks.apgd import LossAndGrad, apgd
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import ThreatModel, or_wrong
from dentbench.attacks.budget import poisoning_iterations
from dentbench.attacks.losses import Loss, make_loss, ranked_targets
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.search import Search, differentiate, through


def poisoned_stream(context: AttackContext) -> AttackResult:
    """Perturb the batches before the unit so that its images break, perturbed or not.

    One batch after the other, the oldest first, each as if the unit came next. An image is broken
    where it is right unperturbed in the natural stream and, in the poisoned stream, wrong
    unperturbed or at its worst point so far; both are judged on a stream that is made anew. The
    details count the unit's images that are right in either stream.
    """
    search = Search(context, "poisoned-stream")
    result = search.result()
    assert context.stream is not None
    state, batches = context.stream
    poisons = []
    for images in batches:
        poisons.append(_poison(context, state, images))
        state = state.after(poisons[-1])
    fresh, _ = context.stream
    for poison in poisons:
        fresh = fresh.after(poison)
    right = {
        name: _right(fresh, context, points)
        for name, points in (("natural", context.images), ("attacked", result.points))
    }
    unbroken = right["natural"] & right["attacked"] if poisons else torch.ones_like(result.robust)
    counts = {
        "poisoned_batches": len(poisons),
        "natural_right": int(context.natural.sum()),
        "natural_right_poisoned": int((context.natural & right["natural"]).sum()),
        "attacked_right": int(result.robust.sum()),
        "attacked_right_poisoned": int((result.robust & right["attacked"]).sum()),
    }
    robust = result.robust & unbroken
    return replace(result, robust=robust, elsewhere=unbroken, details={"stream": counts})


@torch.no_grad()
def _right(defense: Any, context: AttackContext, points: Tensor) -> Tensor:
    return or_wrong(defense(points), context.labels).argmax(1) == context.labels


def _poison(context: AttackContext, state: Any, images: Tensor) -> Tensor:
    """Return points (B, C, H, W) near ``images`` after which ``state`` is worst on the unit.

    The gradient goes through the update where the defense has ``unroll_after``; else it is that
    of losses of the batch's own. Its effect on the unit is measured after every step.
    """
    victims, labels = context.images, context.labels
    dlr = make_loss("dlr", labels)
    threat = ThreatModel.of(context.spec.attack)
    best, worst = images, torch.tensor(-torch.inf)

    def harm(logits: Tensor) -> Tensor:
        # A victim that is wrong by a little is wrong; the ascent is to go on with the others.
        return dlr(logits).clamp(max=0.1).sum()

    def on_iterate(points: Tensor, logits: Tensor | None = None) -> None:
        nonlocal best, worst
        del logits
        with torch.no_grad():
            damage = harm(or_wrong(state.after(points)(victims), labels)).cpu()
        if damage > worst:
            best, worst = points, damage

    def exact(points: Tensor, loss: Loss) -> LossAndGrad:
        del loss
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            value = harm(state.unroll_after(leaf)(victims))
        return LossAndGrad(value.detach().expand(len(points)), differentiate(value, leaf))

    iterations = poisoning_iterations(context.spec)
    if hasattr(state, "unroll_after"):
        apgd(exact, dlr, images, images, threat, iterations, on_iterate)
        return best
    for loss in _stand_ins(context, state, images):
        apgd(through(state), loss, images, images, threat, iterations, on_iterate)
    return best


@torch.no_grad()
def _stand_ins(context: AttackContext, state: Any, images: Tensor) -> tuple[Loss, Loss]:
    """Return losses of a batch's own: away from its answers, and to the unit's commonest rival."""
    logits = state(context.images)
    rivals = ranked_targets(logits, context.labels, 0)
    own = state(images).argmax(1)
    return make_loss("ce", own), make_loss("ce", own, rivals.mode().values.expand(len(images)))
