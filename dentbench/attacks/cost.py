"""Count the passes through the network that an attack costs, before it is run; no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dentbench.attacks.budget import (
    BUDGETED,
    KEPT_BATCHES,
    LOOK_EVERY,
    LOOKS,
    PARTS,
    POISONED,
    WITNESSES,
    ascents_of,
    compositions_attacked,
    fewer_steps,
    invading_iterations,
    larger_steps,
    maximal_ascents,
    poisoning_iterations,
    queries_of,
    recombined_batches,
)
from dentbench.attacks.catalogue import BLACK_BOXES, COUNTERPARTS, PROTOCOLS, STARTING_POINTS
from dentbench.attacks.protocol_cards import OWN_NORMS
from dentbench.spec.attack_plans import ATTACKS, is_users
from dentbench.spec.evaluation import AttackSpec, DefenseSpec, DentSpec, EvalSpec


@dataclass(frozen=True)
class Passes:
    """Single-image forward and backward passes."""

    forwards: int
    backwards: int

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forwards + other.forwards, self.backwards + other.backwards)

    def __mul__(self, times: int) -> Passes:
        return Passes(self.forwards * times, self.backwards * times)


def attack_passes(spec: AttackSpec, classes: int) -> Passes:
    """Return the passes through the attacked model for an image that survives every part.

    The count is exact: it includes the attacks' own checks and our judgement after each part.
    """
    total = Passes(0, 0)
    for name in ATTACKS[spec.name].parts:
        total += _part_passes(name, spec, classes) + Passes(1, 0)
    return total


def _part_passes(name: str, spec: AttackSpec, classes: int) -> Passes:
    plan = ATTACKS[spec.name]
    iterations = spec.iterations or plan.iterations or 100
    if is_users(name):  # a guess for the progress display: the number is unknown
        return Passes(1 + iterations, iterations)
    # In L1, AutoAttack standard runs APGD in three stages, each with a first gradient of its own.
    starts = 3 if spec.norm == "L1" and plan.version == "standard" else 1
    default_targets = 5 if starts == 3 and name == "apgd-t" else 9
    targets = min(spec.targets or plan.targets or default_targets, classes - 1)
    many = plan.version == "plus" or starts == 3
    eot = 20 if plan.version == "rand" else 1
    if name in ("apgd-ce", "apgd-dlr"):
        restarts = 5 if many else 1
        gradients = restarts * (iterations + starts) * eot
        return Passes(1 + gradients, gradients)
    if name == "apgd-t":
        gradients = targets * (iterations + starts)
        return Passes(1 + targets + gradients, gradients)
    if name == "fab":
        restarts = 5 if plan.version == "plus" else 1
        return Passes(1 + restarts * (2 * iterations + 2), restarts * iterations * classes)
    if name == "fab-t":
        return Passes(1 + targets * (2 * iterations + 3), targets * iterations)
    return Passes((spec.queries or 5000) + 3, 0)


def adapted(passes: Passes, defense: DentSpec | DefenseSpec | None) -> Passes:
    """Return the network's passes when the attacked model adapts before every forward."""
    steps = 0 if defense is None else defense.steps
    return Passes(passes.forwards * (steps + 1), passes.backwards + passes.forwards * steps)


def stage_passes(spec: EvalSpec, stage: str, classes: int, *, random: bool = False) -> Passes:
    """Return the most passes that one image can cost in a stage, final judgement included.

    ``random``: whether the defense answers by chance, so that a point is judged by many answers.
    A user's protocol is taken to cost as much as the published protocol.
    """
    views = spec.defense.views if isinstance(spec.defense, DefenseSpec) else 1
    return _of_one_view(spec, stage, classes, random) * views


def _of_one_view(spec: EvalSpec, stage: str, classes: int, random: bool) -> Passes:
    """Return a stage's passes for a defense that asks the network about one view of an image."""
    judged = adapted(Passes(1, 0), spec.defense)
    if stage == "natural":
        return judged
    # The static model judges the final points of a defense too.
    final = judged if spec.defense is None else judged + Passes(1, 0)
    if random and spec.protocols.cascade and stage in STARTING_POINTS:
        final += judged * spec.protocols.draws_judged
    seen = judged * LOOKS if random else judged  # a point that a search is shown
    if stage == "transfer":
        return final + _maximal_passes(spec, seen, random)
    if stage not in BUDGETED:
        return adapted(attack_passes(spec.attack, classes), spec.defense) + final
    card = PROTOCOLS[stage]
    starts = len(card.after) if spec.protocols.cascade and stage not in BLACK_BOXES else 1
    starts += spec.protocols.cascade and spec.defense is not None and stage in COUNTERPARTS
    overhead = seen * starts + _together(spec, seen, random) + final
    return overhead + _protocol_passes(spec, stage, classes, judged, seen)


def _maximal_passes(spec: EvalSpec, seen: Passes, random: bool) -> Passes:
    """Return the cost of the static model's points of maximal margin, which transfer tries.

    The logits that rank the targets, the ascents, and the defense's answers at their ends.
    """
    if spec.attack.norm not in OWN_NORMS or spec.batches.batching != "declared":
        return Passes(0, 0)
    ascents = maximal_ascents(spec)
    gradients = sum(ascent.iterations + 1 for ascent in ascents)
    ends = seen * (1 + len(ascents)) + _together(spec, seen, random)
    return Passes(1, 0) + Passes(1, 1) * gradients + ends


def _together(spec: EvalSpec, seen: Passes, random: bool) -> Passes:
    """Return the cost of coupled images' worst points together, and of their witnesses."""
    if spec.separable:
        return Passes(0, 0)
    return seen if random else seen + witness_passes(spec)


def witness_passes(spec: EvalSpec, most: int = WITNESSES) -> Passes:
    """Return the most passes of a coupled image for a stage's witnesses, which may be none.

    The defense and the static model are asked about each.
    """
    return (adapted(Passes(1, 0), spec.defense) + Passes(1, 0)) * most


def _protocol_passes(
    spec: EvalSpec, stage: str, classes: int, judged: Passes, seen: Passes
) -> Passes:
    random = seen != judged
    if stage in ("fpa", "gmsa-avg", "gmsa-min"):
        return _ensemble_passes(spec, stage, classes, judged, seen)
    if stage == "decision":
        looks = -(-queries_of(spec) // LOOK_EVERY) + 1 if random else 0
        return judged * queries_of(spec) + seen * looks
    if stage == "scores":
        square = replace(spec.attack, name="square", queries=queries_of(spec))
        return adapted(attack_passes(square, classes), spec.defense) + seen
    if stage == "poisoned-stream":
        # An update, and its gradient; the unit, and its gradient; update and unit once more to see.
        per_gradient = Passes(2, 3) + Passes(2, 1)
        return (per_gradient * (2 * poisoning_iterations(spec) + 2) + judged * 5) * POISONED
    if stage == "batch-mates":
        return _batch_mates_passes(spec, judged, random=random)
    return _ascent_passes(spec, stage, classes, judged, seen)


def _ascent_passes(
    spec: EvalSpec, stage: str, classes: int, judged: Passes, seen: Passes
) -> Passes:
    """Return the passes of a protocol of ascents; of a random defense only their ends are seen."""
    gradients = [ascent.iterations + 1 for ascent in ascents_of(spec, stage, classes)]
    random, ends = seen != judged, seen * len(gradients)
    iterates = sum(-(-count // spec.protocols.every) for count in gradients)
    asked = ends if random else judged * iterates
    back = Passes(0, 1)
    if stage == "few-steps":
        total = Passes(0, 0)
        for steps in fewer_steps(spec):
            total += _called(steps) * sum(gradients) + back * sum(gradients) + asked
        return total
    if stage == "surrogate-process":
        return _unrolled_gradient(larger_steps(spec), last=None) * sum(gradients) + asked
    if stage == "surrogate" and spec.defense is not None:
        return Passes(1, 1) * sum(gradients) + asked
    if stage == "eot":
        halves = 1 if spec.separable else 2
        return (judged + back) * (sum(gradients) * spec.protocols.draws * halves) + asked
    steps = _steps(spec)
    per_gradient = {
        "surrogate": judged + back,  # of the static model, which judges as it goes
        "warm": judged + back,
        "bpda": judged + Passes(1, 1),
        "trajectory": Passes(steps, steps) + Passes(1, 1) * (steps + 1),
        "unrolled": _unrolled_gradient(steps, spec.protocols.last),
    }[stage]
    return per_gradient * sum(gradients) + ends * random


def _batch_mates_passes(spec: EvalSpec, judged: Passes, *, random: bool) -> Passes:
    """Return the passes in other batches; a random defense is not asked to be right in all."""
    batches = sum(PARTS.values())
    shares = len(spec.protocols.fractions)
    times = invading_iterations(spec) + 1
    invading = _unrolled_gradient(_steps(spec), last=None) * (times * shares)
    attacked = compositions_attacked(spec)
    ascents = (judged + Passes(0, 1)) * (sum(PARTS[name] for name in attacked) * times)
    # Of the recombined batches some are kept, and one of each ascent.
    kept = witness_passes(spec, KEPT_BATCHES + len(attacked))
    recombined = judged * recombined_batches(spec) + kept
    first = judged * (2 * batches + shares) + invading
    return first + (ascents + recombined) * (not random)


def _called(steps: int) -> Passes:
    return Passes(steps + 1, steps)


def _steps(spec: EvalSpec) -> int:
    return 0 if spec.defense is None else spec.defense.steps


def _unrolled_gradient(steps: int, last: int | None) -> Passes:
    """An exact gradient: every step is done again, with a graph, on the way back."""
    again = steps if last is None else min(last, steps)
    return _called(steps) + Passes(again, 2 * again) + Passes(0, 1)


def _ensemble_passes(
    spec: EvalSpec, stage: str, classes: int, judged: Passes, seen: Passes
) -> Passes:
    ascents = ascents_of(spec, stage, classes)
    total = Passes(0, 0)
    for number in range(spec.protocols.rounds):
        networks = 1 if stage == "fpa" else number + 1
        # The new adaptation, and the earlier adaptations for fewer images.
        total += judged * (1 + number) + seen * (seen != judged)
        if number or not spec.protocols.cascade:
            gradients = 1 + sum(ascent.iterations + 2 for ascent in ascents)
            total += Passes(1, 1) * (gradients * networks) + seen * len(ascents)
    return total
