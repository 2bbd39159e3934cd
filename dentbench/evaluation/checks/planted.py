"""The check "planted": the share of planted adversarial points that each protocol finds.

The points and their readout are fitted once; every protocol is run on the same points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from dentbench.attacks import checks, evidence
from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.budget import iterations_of
from dentbench.attacks.catalogue import CHECKS_VERSION, PROTOCOLS
from dentbench.attacks.checks import Check
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.planting import IMAGES, Planting, ReadoutDefense, plant
from dentbench.attacks.protocol_cards import OWN_NORMS
from dentbench.attacks.protocols.base import AttackContext, load_protocol, published
from dentbench.evaluation.checks.sanity_checks import (
    STAGE,
    found_random,
    in_batches,
    probe_of,
)
from dentbench.evaluation.context import RunContext
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DefenseSpec, EvalSpec
from dentbench.spec.protocol import ProtocolSpec

NOTE: Final = f"planted-{CHECKS_VERSION}"
"""The name of the note that keeps the counts beside the outcomes."""

ITERATIONS: Final = (12, 20)
"""The fewest and the most iterations of the attack on planted points; between them its own."""

LEAST: Final = 4
"""The fewest planted points that decide the check."""


def planted(
    context: RunContext, spec: EvalSpec, protocols: Sequence[str], offers: Collection[str]
) -> Check:
    """Return the check of ``protocols``, which were run; make missing counts now.

    ``offers``: the defense's methods beside logits. The check passes where a gain has protocols to
    rest on, see :mod:`dentbench.attacks.evidence`.
    """
    if spec.attack.norm not in OWN_NORMS or not spec.attack.eps:
        text = f"not made in {spec.attack.norm} with eps {float(spec.attack.eps):g}"
        return Check(checks.PLANTED, None, None, text)
    if not {*protocols} & {*evidence.SUPPORTING}:
        return check_of(None, {})
    folder = context.folder(spec)
    nothing: dict[str, Any] = {"of": None, "found": {}, "passes": 0}
    note: dict[str, Any] = folder.load_note(NOTE, nothing) or nothing
    tested = [name for name in protocols if name in evidence.TESTED]
    missing = [name for name in tested if _stored(name) not in note["found"]]
    if missing:
        note = context.worker.micro_batcher.fit(
            spec, STAGE, lambda: _tried(context, spec, missing, note)
        )
        folder.save_note(NOTE, note)
    counts = {name: note["found"][_stored(name)] for name in tested}
    reasons = (PROTOCOLS[name].reason_to_skip(spec, offers) for name in evidence.IN_PARTS)
    return check_of(note["of"], counts, note["passes"], in_parts=not all(reasons))


def check_of(
    of: int | None, counts: Mapping[str, int], passes: int = 0, *, in_parts: bool = False
) -> Check:
    """Return the check; ``counts``: how many of ``of`` planted points each protocol finds.

    ``in_parts``: whether protocols can attack the defense that need its parts.
    """
    if of is None or not counts:
        return Check(checks.PLANTED, None, None, "no protocol was run that a gain can rest on")
    if of < LEAST:
        text = f"points could be planted at {of} images only, and {LEAST} are needed: random "
        text += "points of the ball hardly change the logits"
        return Check(checks.PLANTED, None, None, text)
    shares = {name: count / of for name, count in counts.items()}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    sentence = (
        f"of {of} planted adversarial points the protocols find: {listed} ({passes:,} passes)"
    )
    if weak := evidence.not_counted_on(shares):
        sentence += f"; do not count on {', '.join(weak)}"
    if lacking := evidence.lacking(shares, in_parts=in_parts):
        sentence += f"; {' and '.join(lacking)} finds {100 * evidence.LEAST_SHARE:g}% of them: "
        sentence += "it may miss such points elsewhere too"
    return Check(checks.PLANTED, not lacking, max(shares.values()), sentence, shares)


def _stored(protocol: str) -> str:
    """Return the name by which the note has the count of a protocol's present code."""
    return f"{protocol} {PROTOCOLS[protocol].version}"


def _tried(
    context: RunContext, spec: EvalSpec, protocols: Sequence[str], note: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the counts with those of further protocols."""
    counter = context.worker.counter
    before = counter.forwards + counter.backwards
    probe = probe_of(context, spec)
    planting = _planting(probe, random=found_random(context.folder(spec)))
    counts = dict(note["found"])
    for name in protocols:
        counts[_stored(name)] = _count(context, spec, probe, planting, name)
    passes = note["passes"] + counter.forwards + counter.backwards - before
    return {"of": int(planting.stands.sum()), "found": counts, "passes": passes}


def _planting(probe: Probe, *, random: bool) -> Planting:
    """Plant points, at twice as many images where too few of the first take a point."""
    planting = plant(probe, random=random)
    if int(planting.stands.sum()) >= LEAST or len(probe.images) <= IMAGES:
        return planting
    return plant(probe, random=random, count=2 * IMAGES)


def _count(
    context: RunContext, spec: EvalSpec, probe: Probe, planting: Planting, protocol: str
) -> int:
    defense = probe.make()
    attack = _attack_context(context, spec, planting, defense)
    if PROTOCOLS[protocol].needs_static:
        assert attack.network is not None
        static = published(replace(attack, defense=attack.network))
        attack = replace(attack, static_points=static.points)
    result = load_protocol(protocol)(attack)
    points = ThreatModel.of(spec.attack).project(result.points, planting.images)
    return planting.hits(defense, points)


def _short(spec: EvalSpec, count: int) -> EvalSpec:
    """Return the spec of a short attack on ``count`` planted points, in one batch."""
    least, most = ITERATIONS
    iterations = min(max(iterations_of(spec), least), most)
    steps = getattr(spec.defense, "steps", 0)
    return replace(
        spec,
        data=replace(spec.data, first=0, count=count, order="given"),
        batches=BatchPlan(size=count),
        # Each image has a readout of its own, so that all of them are always shown together.
        defense=DefenseSpec(name="planted", settings=(("steps", steps),), separable=False),
        attack=AttackSpec(
            name="apgd-ce", norm=spec.attack.norm, eps=spec.attack.eps, iterations=iterations
        ),
        protocols=ProtocolSpec(targets=1, rounds=2, last=spec.protocols.last),
    )


def _attack_context(
    context: RunContext, spec: EvalSpec, planting: Planting, defense: Classifier
) -> AttackContext:
    """Return the context of an attack on the planted points: two classes, one whole batch."""
    count = len(planting.images)
    worker = context.worker
    with_steps = worker.with_steps(spec)

    def read(classify: Classifier) -> Classifier:
        if count > spec.batches.size:
            classify = in_batches(context, spec, classify)
        return ReadoutDefense(classify, planting.readout)

    def fewer(steps: int, **how: Any) -> Classifier:
        assert with_steps is not None
        return read(with_steps(steps, **how))

    surrogate = worker.surrogate_of(spec)
    zeros = torch.zeros(count, dtype=torch.long, device=planting.images.device)
    return AttackContext(
        spec=_short(spec, count),
        unit=0,
        images=planting.images,
        labels=zeros,
        natural=zeros == 0,
        classes=2,
        defense=ReadoutDefense(defense, planting.readout),  # the probe's, in batches already
        network=read(worker.shown(spec, worker.network)),
        others=planting.images[:0],
        other_labels=zeros[:0],
        with_steps=with_steps and fewer,
        surrogate=surrogate and read(surrogate),
    )
