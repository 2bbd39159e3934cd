"""Ask about single images in the other batches in which batch-mates judges them.

It attacks those of full size there, by gradients that may mislead, and does not attack images
alone: where these break, it is a doubt and not a count.

For a declared batch of B images it costs 57 B single-image calls, and 8 B for each further group,
times the 13 batches that an image costs in all compositions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from dentbench.attacks.base import Classifier
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.single_images import misled
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.batch_mates import in_company, right_unperturbed
from dentbench.evaluation import cascade
from dentbench.evaluation.context import RunContext
from dentbench.spec.evaluation import EvalSpec


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
    for name, right in right_unperturbed(shown):
        rows = right.nonzero().flatten().tolist()
        moved = [kept for group in groups if (kept := [row for row in group if row in rows])]
        reasons = misled(_in_company(probe, shown, name), moved, briefly=True) if moved else []
        yield name, {row: reasons[row] for row in rows if moved}


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


def _in_company(probe: Probe, shown: AttackContext, name: str) -> Probe:
    """Return the probe of a defense whose images are shown in a composition."""

    def make(*like: Any) -> Classifier:
        return in_company(replace(shown, defense=probe.make(*like)), name)

    return replace(probe, make=make)
