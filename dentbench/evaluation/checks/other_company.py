"""Ask about single images in the other batches in which batch-mates judges them, and in halves.

It attacks those of full size there, by gradients that may mislead, and does not attack smaller
batches: where images break in these, it is a doubt and not a count.

For a declared batch of B images it costs 57 B single-image calls, and 8 B for each further group,
times the 14 batches that an image costs in all compositions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, judge
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.single_images import misled
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.batch_mates import in_company, right_unperturbed
from dentbench.errors import ModelError
from dentbench.evaluation import cascade
from dentbench.evaluation.context import RunContext
from dentbench.spec.evaluation import EvalSpec

HALVES: Final = "half-size"
"""The composition in which the halves of a declared batch are batches."""

LEAST: Final = 4
"""The fewest images of a batch that is halved."""


def misled_elsewhere(
    context: RunContext,
    spec: EvalSpec,
    unit: int,
    probe: Probe,
    groups: Sequence[Sequence[int]],
) -> Iterator[tuple[str, dict[int, str]]]:
    """Yield each composition with what is wrong there, by row, with images of a declared batch.

    ``probe``: of the declared batch ``unit``; ``groups``: rows of images that a step moves
    together. Images that are wrong in a composition unperturbed, which no attack breaks there, are
    left out.
    """
    shown = _attack_context(context, spec, unit, probe)
    for other, name, right in _compositions(probe, shown):
        rows = right.nonzero().flatten().tolist()
        moved = [kept for group in groups if (kept := [row for row in group if row in rows])]
        reasons = misled(other, moved, briefly=True) if moved else []
        yield name, {row: reasons[row] for row in rows if moved}


def _compositions(probe: Probe, shown: AttackContext) -> Iterator[tuple[Probe, str, Tensor]]:
    """Yield the probe of each composition, its name, and which images (B,) are right there."""
    for name, right in right_unperturbed(shown):
        yield _shown(probe, partial(_in_company, shown, name)), name, right
    halves = _shown(probe, _in_halves)
    if len(probe.images) < LEAST:  # a half is an image alone, or nothing
        return
    try:
        right = judge(halves.make(), probe.images, probe.labels)
    except ModelError:  # it takes no smaller batches
        return
    yield halves, HALVES, right


def _attack_context(context: RunContext, spec: EvalSpec, unit: int, probe: Probe) -> AttackContext:
    """Return the context that batch-mates has on a declared batch, as far as it is needed."""
    others, inputs, device = cascade.neighbours(spec, unit), context.inputs, context.worker.device
    return AttackContext(
        spec=spec,
        unit=unit,
        images=probe.images,
        labels=probe.labels,
        natural=torch.ones_like(probe.labels, dtype=torch.bool),
        classes=context.worker.classes,
        defense=probe.make(),
        others=inputs.images[others].to(device),
        other_labels=inputs.labels[others].to(device),
    )


def _in_company(shown: AttackContext, name: str, defense: Classifier) -> Classifier:
    return in_company(replace(shown, defense=defense), name)


def _in_halves(defense: Classifier) -> Classifier:
    """Return the defense that is shown one half of a batch after the other."""
    return lambda x: torch.cat([defense(half) for half in x.tensor_split(2)])


def _shown(probe: Probe, compose: Callable[[Classifier], Classifier]) -> Probe:
    """Return the probe of a defense whose images are shown in a composition."""
    return replace(probe, make=lambda *like: compose(probe.make(*like)))
