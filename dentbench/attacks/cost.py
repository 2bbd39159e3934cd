"""What an attack costs, counted in passes through the network, before it is run; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from dentbench.attacks.catalogue import ATTACKS
from dentbench.spec import AttackSpec, DentSpec, EvalSpec


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
    """Return the passes through what is attacked for one image that survives every part.

    The count is exact: it includes the attacks' own checks and our judgement after each part.
    """
    total = Passes(0, 0)
    for name in ATTACKS[spec.name].parts:
        total += _part_passes(name, spec, classes) + Passes(1, 0)
    return total


def _part_passes(name: str, spec: AttackSpec, classes: int) -> Passes:
    plan = ATTACKS[spec.name]
    iterations = spec.iterations or plan.iterations or 100
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


def adapted(passes: Passes, defense: DentSpec | None) -> Passes:
    """Return the network's passes when what is attacked adapts before every forward."""
    steps = 0 if defense is None else defense.steps
    return Passes(passes.forwards * (steps + 1), passes.backwards + passes.forwards * steps)


def stage_passes(spec: EvalSpec, stage: str, classes: int) -> Passes:
    """Return the most passes that one image can cost in a stage, final judgement included."""
    once = Passes(1, 0)
    attack = attack_passes(spec.attack, classes) if stage == "published" else Passes(0, 0)
    return adapted(attack + once, spec.defense)
