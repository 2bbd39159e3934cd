"""Adversarial points of networks near to the defense, judged on it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dentbench.attacks.apgd import apgd, random_start
from dentbench.attacks.autoattack import AttackResult, run_attack
from dentbench.attacks.base import Classifier, ThreatModel, judge
from dentbench.attacks.budget import Ascent, maximal_ascents
from dentbench.attacks.catalogue import LARGEST_MARGIN
from dentbench.attacks.losses import make_loss, ranked_targets
from dentbench.attacks.protocol_cards import OWN_NORMS
from dentbench.attacks.protocols.base import AttackContext, judged_only
from dentbench.attacks.protocols.search import Search, through
from dentbench.attacks.views import BatchView
from dentbench.spec.evaluation import derive_seed


def transfer(context: AttackContext) -> AttackResult:
    """Hand the defense the static model's adversarial points, survivors' best points included.

    Those are the first that broke the static model. On declared batches, in the norms of our own
    attack, those of the largest margin are tried too: a point barely on the other side is soon
    brought back by a defense that moves a little. Where the defense declares a surrogate, its
    points under the same attack count as well. Of all, those that are worst for the defense are
    handed in. Source: Croce et al., ICML 2022 (arXiv 2202.13711); the largest margin is ours.
    """
    points = context.static_points
    assert points is not None
    firsts: tuple[Tensor, ...] = (points,)
    maximal = _maximal(context, points)
    if context.surrogate is not None:
        firsts = (*firsts, _points_of(context.surrogate, context))
    if len(firsts) == 1 and not maximal:
        return judged_only(points, context)
    search = Search(replace(context, starts=firsts), "transfer")
    left = (search.margin <= 0).tolist()
    for candidate in maximal:
        search.see(search.threat.project(candidate, context.images)[search.rows])
    result = search.result()
    broken_by = tuple(
        LARGEST_MARGIN if name == "transfer" and right else name
        for name, right in zip(result.broken_by, left, strict=True)
    )
    return replace(result, broken_by=broken_by)


def _maximal(context: AttackContext, points: Tensor) -> tuple[Tensor, ...]:
    """Return points (B, C, H, W) where the static model's margin is as large as ascents make it."""
    spec, rows = context.spec, context.natural.nonzero().flatten()
    if spec.attack.norm not in OWN_NORMS or spec.batches.batching != "declared" or not len(rows):
        return ()
    assert context.network is not None
    with torch.no_grad():
        logits = context.network(points[rows])
    results = []
    for number, ascent in enumerate(maximal_ascents(spec)):
        if ascent.rank is None or ascent.rank < context.classes - 1:
            best = _ascended(context, points, rows, logits, ascent, number)
            results.append(points.index_put((rows,), best))
    return tuple(results)


def _ascended(
    context: AttackContext,
    points: Tensor,
    rows: Tensor,
    logits: Tensor,
    ascent: Ascent,
    number: int,
) -> Tensor:
    """Return where an ascent of the static model's margin ends, for the images of ``rows``."""
    spec, threat, labels = context.spec, ThreatModel.of(context.spec.attack), context.labels[rows]
    start = points
    if ascent.start == "random":
        seed = derive_seed(spec.seed, "transfer", context.unit, number)
        start = random_start(context.images, threat, torch.Generator().manual_seed(seed))
    targets = None if ascent.rank is None else ranked_targets(logits, labels, ascent.rank)
    assert context.network is not None
    return apgd(
        through(context.network),
        make_loss(ascent.loss, labels, targets),
        start[rows],
        context.images[rows],
        threat,
        ascent.iterations,
    )


def _points_of(surrogate: Classifier, context: AttackContext) -> Tensor:
    """Return the points (B, C, H, W) of the run's attack on a surrogate, a batch at a time."""
    spec, images, labels = context.spec, context.images, context.labels
    view = BatchView(surrogate, images, labels, ThreatModel.of(spec.attack), whole=True)
    return run_attack(
        view,
        spec.attack,
        judge(surrogate, images, labels),
        context.classes,
        seed_of=lambda name, chunk: derive_seed(spec.seed, "surrogate", name, context.unit, chunk),
        chunk=spec.batches.size,
    ).points
