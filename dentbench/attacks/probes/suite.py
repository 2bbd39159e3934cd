"""All checks that ask the defense itself, about a batch of its images; few calls, then no more."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dentbench.attacks import checks
from dentbench.attacks.checks import Check
from dentbench.attacks.probes import consistency
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.climbing import climb_all
from dentbench.attacks.probes.gradients import ascent, gradients
from dentbench.attacks.probes.indicators import indicate
from dentbench.attacks.probes.jumps import jumps
from dentbench.attacks.probes.order import ask_first
from dentbench.attacks.probes.scores import scores
from dentbench.attacks.probes.shapes import best_in_shapes
from dentbench.attacks.probes.single_images import misled_in_parts
from dentbench.attacks.protocol_cards import OWN_NORMS


def probe(probe: Probe) -> tuple[Check, ...]:
    """Return every check that asks the defense at the start; the random state is as before.

    The questions of the check "order" come first of all, the check itself last.
    """
    ask_first(probe)
    defense, answers = consistency.ask_twice(probe)
    random = consistency.is_random(probe, answers)
    return (
        consistency.repeatable(answers, declared_random=probe.random),
        consistency.separable(probe, defense, answers),
        consistency.modes(probe, answers),
        consistency.logits(answers[0].first),
        scores(probe, random=random),
        consistency.stateless(probe, random=random),
        consistency.in_range(probe.images),
        *gradients(probe, random=random),
        *_climbing(probe, random),
    )


def _climbing(probe: Probe, random: bool) -> tuple[Check, ...]:
    if probe.threat.norm not in OWN_NORMS or not probe.threat.eps:
        text = f"not made in {probe.threat.norm} with eps {probe.threat.eps:g}"
        return tuple(Check(name, None, None, text) for name in checks.CLIMBING)
    climbs = climb_all(probe)
    static = probe.network is None  # of a defense, images that a gain rests on are asked about
    parts = _in_parts(probe) if static and not random else None
    # What protocols leave of them is counted when they were run.
    broken = {str(probe.numbers[row]): margin for row, margin in climbs.full.broken.items()}
    text = f"{climbs.full.steps} steps along the gradient break {len(broken)} images"
    return (
        ascent(climbs.short, climbs.chance),
        *indicate(climbs, parts, random=random),
        Check(checks.SAME_ASCENT, None, None, text, broken),
    )


def _in_parts(probe: Probe) -> Tensor:
    """Return the highest margins (b,) in parts of the ball, infinite where attacks are misled."""
    few = replace(probe, images=probe.few[0], labels=probe.few[1])
    best = best_in_shapes(few, few.images, few.labels)
    odd = jumps(few) | misled_in_parts(few, [[*range(len(best))]])
    return best.masked_fill(odd, torch.inf)
