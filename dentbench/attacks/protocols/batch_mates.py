"""Batch mates: the worst points judged in other company, and mates that attack their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from dentbench.attacks.apgd import LossAndGrad, apgd, random_start
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import Classifier, ThreatModel, margins, or_wrong
from dentbench.attacks.budget import (
    PARTS,
    compositions_attacked,
    invading_iterations,
    invading_mates,
)
from dentbench.attacks.losses import Loss, make_loss
from dentbench.attacks.protocols.ascent_elsewhere import ascent_elsewhere
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.gradient import unrolled_defense
from dentbench.attacks.protocols.rebatching import divisions, judged_alone, judged_in
from dentbench.attacks.protocols.recombined import recombined
from dentbench.attacks.protocols.search import Search, differentiate
from dentbench.errors import ModelError
from dentbench.spec.evaluation import derive_seed

Composition: TypeAlias = Callable[[AttackContext, Tensor, torch.Generator], Tensor]
"""Maps points (B, C, H, W) to the logits (B, classes) that they get in other batches."""


def _shuffled(context: AttackContext, points: Tensor, generator: torch.Generator) -> Tensor:
    groups = divisions(len(points), generator, parts=PARTS["shuffled"])
    return judged_in(context, points, groups, generator)


def _sorted(context: AttackContext, points: Tensor, generator: torch.Generator) -> Tensor:
    groups = divisions(len(points), generator, PARTS["label-sorted"], by=context.labels)
    return judged_in(context, points, groups, generator, alike=True)


def _natural(context: AttackContext, points: Tensor, generator: torch.Generator) -> Tensor:
    groups = divisions(len(points), generator, parts=PARTS["among-natural"])
    return judged_in(context, points, groups, generator)


def _alone(context: AttackContext, points: Tensor, generator: torch.Generator) -> Tensor:
    del generator
    return judged_alone(context, points)


COMPOSITIONS: dict[str, Composition] = {
    "shuffled": _shuffled,
    "label-sorted": _sorted,
    "among-natural": _natural,
    "alone": _alone,
}
"""The other batches: a random half of the unit beside natural images; half of the unit by label
beside natural images of those labels, which skews the classes as sorting does in arXiv
2110.14735; an eighth of the unit beside natural images; and every image alone, unless the defense
takes no single image."""


def in_company(context: AttackContext, name: str) -> Classifier:
    """Return the defense in a composition: points (B, C, H, W) of the unit to logits (B, classes).

    The mates and their order are always the same.
    """
    seed = derive_seed(context.spec.seed, "batch-mates", context.unit)
    compose = COMPOSITIONS[name]
    return lambda points: compose(context, points, torch.Generator().manual_seed(seed))


def batch_mates(context: AttackContext) -> AttackResult:
    """Judge the worst points so far in other batches, and let malicious mates attack neighbours.

    In every composition the natural images are judged too, beside the same mates in the same
    order. A composition breaks an image that is right naturally, in its declared batch and in the
    composition, and wrong there at its worst point. An image that is wrong there without any
    perturbation is not broken: that is the coupling's failure, not the perturbation's, and is
    counted apart. Then compositions of full size are attacked, by the same rule, and images and
    mates are recombined, all perturbed. The details hold :func:`_counted` of each composition, and
    :func:`invade`'s numbers, which are of unperturbed images and stay apart too.
    """
    search = Search(context, "batch-mates")
    result = search.result()
    elsewhere = torch.ones_like(context.natural)
    counts: dict[str, dict[str, int]] = {}
    unperturbed: dict[str, Tensor] = {}
    for name, natural in right_unperturbed(context):
        attacked = _right_in(context, name, result.points)
        counts[name] = _counted(context, result.robust, natural, attacked)
        elsewhere &= attacked | ~natural
        unperturbed[name] = natural
    result = replace(result, robust=result.robust & elsewhere, elsewhere=elsewhere)
    if search.coupled and not context.random:  # a random defense is wrong somewhere by chance
        start = ThreatModel.of(context.spec.attack).project(result.points, context.images)
        for name in compositions_attacked(context.spec):
            result = _ascended(context, result, name, unperturbed[name], start, counts)
        result = _recombined(context, result, counts)
    details = {"compositions": counts, "invading": invade(context)}
    return replace(result, details=details)


def _ascended(
    context: AttackContext,
    result: AttackResult,
    name: str,
    natural: Tensor,
    start: Tensor,
    counts: dict[str, dict[str, int]],
) -> AttackResult:
    """Attack a composition, in which the images ``natural`` (B,) are right unperturbed."""
    other = ascent_elsewhere(context, in_company(context, name), start)
    counts[f"{name}-ascent"] = _counted(context, result.robust, natural, other.right)
    safe = other.right | ~natural
    broken = bool((result.robust & ~safe).any())
    assert result.elsewhere is not None
    return replace(
        result,
        robust=result.robust & safe,
        elsewhere=result.elsewhere & safe,
        witnesses=(*result.witnesses, *([other.points] if broken else [])),
    )


def _recombined(
    context: AttackContext, result: AttackResult, counts: dict[str, dict[str, int]]
) -> AttackResult:
    threat = ThreatModel.of(context.spec.attack)
    found = tuple(threat.project(points, context.images) for points in context.starts)
    again = recombined(context, (result.points, *found), result.robust)
    counts["recombined"] = _counted(context, result.robust, context.natural, again.right)
    return replace(
        result,
        robust=result.robust & again.right,
        witnesses=(*result.witnesses, *again.batches),
    )


@torch.no_grad()
def right_unperturbed(context: AttackContext) -> Iterator[tuple[str, Tensor]]:
    """Yield each composition that is answered, with which images (B,) are right there as they are.

    An image alone is no batch for some, as for batch normalization by the batch's own statistics.
    """
    for name in COMPOSITIONS:
        try:
            natural = _right_in(context, name, context.images)
        except ModelError:
            if name != "alone":
                raise
        else:
            yield name, natural


def _right_in(context: AttackContext, name: str, points: Tensor) -> Tensor:
    """Return which points (B, C, H, W) are right in a composition."""
    logits = in_company(context, name)(points)
    return or_wrong(logits, context.labels).argmax(1) == context.labels


def _counted(
    context: AttackContext, robust: Tensor, natural: Tensor, attacked: Tensor
) -> dict[str, int]:
    """Count images of a composition, given which (B,) are right in it, natural and attacked.

    ``natural``: right in it unperturbed. ``attacked``: right in it unperturbed and at the worst
    points. ``lost``: right unperturbed in the declared batch, and wrong unperturbed in it.
    ``broken``: images that nothing has broken before, and that this composition breaks.
    """
    right = {
        "natural": natural,
        "attacked": natural & attacked,
        "lost": context.natural & ~natural,
        "broken": robust & natural & ~attacked,
    }
    return {name: int(flags.sum()) for name, flags in right.items()}


def invade(context: AttackContext) -> dict[str, dict[str, int]]:
    """Return how many unperturbed images of the batch a few malicious batch mates break.

    By share of malicious images, which are drawn at random and move within the threat model:
    how many there are, how many images are left unperturbed, and how many of those are right
    before and after. The gradient is exact where the defense offers that. Source: Wu et al.,
    ICML 2023 (arXiv 2301.12576).
    """
    invaded = {}
    for fraction in context.spec.protocols.fractions:
        count = invading_mates(fraction, len(context.images))
        if count:
            invaded[f"{100 * fraction:g}%"] = _invade(context, count)
    return invaded


def _invade(context: AttackContext, count: int) -> dict[str, int]:
    images, labels = context.images, context.labels
    seed = derive_seed(context.spec.seed, "invading", context.unit, count)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[:count].to(labels.device)
    victims = torch.ones_like(labels, dtype=torch.bool).index_fill(0, rows, False)
    exact = hasattr(context.defense, "unroll")
    whole = unrolled_defense(context.defense, context.spec) if exact else context.defense
    right: list[int] = []

    def gradient_fn(points: Tensor, loss: Loss) -> LossAndGrad:
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = whole(images.index_put((rows,), leaf))[victims]
            values = loss(logits)
        right.append(_right(logits.detach(), labels[victims]))
        return LossAndGrad(values.detach().sum().expand(count), differentiate(values, leaf))

    threat = ThreatModel.of(context.spec.attack)
    clean = images[rows]
    start = random_start(clean, threat, generator)
    with torch.no_grad():
        before = _right(context.defense(images)[victims], labels[victims])
    dlr = make_loss("dlr", labels[victims])
    # A victim that is wrong by a little is wrong; the ascent is to go on with the others.
    iterations = invading_iterations(context.spec)
    apgd(gradient_fn, lambda logits: dlr(logits).clamp(max=0.1), start, clean, threat, iterations)
    return {
        "malicious": count,
        "unperturbed": int(victims.sum()),
        "right_before": before,
        "right_after": min([before, *right]),
    }


def _right(logits: Tensor, labels: Tensor) -> int:
    return int((margins(or_wrong(logits, labels), labels) <= 0).sum())
