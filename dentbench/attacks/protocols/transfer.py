"""Adversarial points of networks near to the defense, judged on it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from dentbench.attacks.autoattack import AttackResult, run_attack
from dentbench.attacks.base import Classifier, ThreatModel, judge
from dentbench.attacks.protocols.base import AttackContext, judged_only
from dentbench.attacks.protocols.search import Search
from dentbench.attacks.views import BatchView
from dentbench.spec.evaluation import derive_seed


def transfer(context: AttackContext) -> AttackResult:
    """Hand the defense the static model's adversarial points, survivors' best points included.

    Where the defense declares a surrogate, its points under the same attack too; of the two, the
    one that is worse for the defense counts. Source: Croce et al., ICML 2022 (arXiv 2202.13711).
    """
    points = context.static_points
    assert points is not None
    if context.surrogate is not None:
        starts = (points, _points_of(context.surrogate, context))
        return Search(replace(context, starts=starts), "transfer").result()
    return judged_only(points, context)


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
