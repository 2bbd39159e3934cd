"""The least budget that each attack must have spent before a gain counts.

The numbers are those of AutoAttack standard and of the protocols by default. A test keeps them
equal, so that a default that becomes cheaper does not make a verdict cheaper. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dentbench.attacks.budget import (
    ascents_of,
    invading_iterations,
    poisoning_iterations,
    queries_of,
    recombined_batches,
)
from dentbench.attacks.catalogue import BLACK_BOXES
from dentbench.spec.attack_plans import ATTACKS, is_users
from dentbench.spec.evaluation import AttackSpec, EvalSpec

Budget = Mapping[str, float]
"""Quantities of a budget by name; more is stronger for each."""

_STANDARD: Final[Budget] = {
    "apgd-ce iterations": 100,
    "apgd-t iterations": 100,
    "apgd-t targets": 9,
    "fab-t iterations": 100,
    "fab-t targets": 9,
    "square queries": 5000,
}
_RAND: Final[Budget] = {
    "apgd-ce iterations": 100,
    "apgd-ce draws": 20,
    "apgd-dlr iterations": 100,
    "apgd-dlr draws": 20,
}
_ROUNDS: Final[Budget] = {
    "rounds": 3,
    "ascents": 4,
    "untargeted ascents": 1,
    "iterations": 50,
    "targets": 3,
}

REQUIRED: Final[dict[str, Budget]] = {
    "published": _STANDARD,
    "surrogate": {"ascents": 3, "iterations": 100, "targets": 2, "judged iterates": 303},
    "warm": {"ascents": 3, "iterations": 100, "targets": 1},
    "few-steps": {"ascents": 1, "iterations": 25, "targets": 1, "judged iterates": 26},
    "surrogate-process": {"ascents": 1, "iterations": 50, "targets": 1, "judged iterates": 51},
    "trajectory": {"ascents": 1, "iterations": 50, "targets": 1},
    "bpda": {"ascents": 1, "iterations": 100, "targets": 1},
    "fpa": _ROUNDS,
    "gmsa-avg": _ROUNDS,
    "gmsa-min": _ROUNDS,
    "unrolled": {"ascents": 2, "iterations": 100, "targets": 1, "percent of steps": 100},
    "eot": {"ascents": 1, "iterations": 50, "targets": 1, "judged iterates": 51, "draws": 2},
    "scores": {"queries": 500},
    "decision": {"queries": 500},
    "poisoned-stream": {"iterations": 25},
    "batch-mates": {
        "iterations": 25,
        "shares": 3,
        "largest share": 0.2,
        "recombined batches": 100,
    },
}
"""The least budgets by protocol; transfer takes over the published attack's."""

_MANY: Final = 10**6
"""More classes than there are targets: a data set of few classes shortens no budget."""


LEAST_ASCENT: Final = 40
"""The least iterations of ascents on the static model for `no gain` to count: those of "quick".

Images that a shorter ascent leaves right are no evidence, and could hide a gain.
"""


def ascent_iterations(budget: Budget) -> float:
    """Return the iterations of all gradient ascents of a protocol's budget together."""
    if "ascents" in budget:
        return budget["ascents"] * budget.get("iterations", 0)
    parts = [name.removesuffix(" iterations") for name in budget if name.endswith(" iterations")]
    return sum(
        budget[f"{part} iterations"] * budget.get(f"{part} targets", 1)
        for part in parts
        if not is_users(part)  # the effort of a user's attack is unknown
    )


def spent(spec: EvalSpec, stage: str) -> dict[str, float]:
    """Return the budget that a spec gives a protocol; empty where none is required."""
    if stage == "published":
        return attack_budget(spec.attack)
    if stage in BLACK_BOXES:
        return {"queries": queries_of(spec)}
    if stage == "batch-mates":
        shares = spec.protocols.fractions
        return {
            "iterations": invading_iterations(spec),
            "shares": len(shares),
            "largest share": max(shares),
            "recombined batches": recombined_batches(spec),
        }
    if stage == "poisoned-stream":
        return {"iterations": poisoning_iterations(spec)}
    if stage not in REQUIRED:
        return {}
    ascents = ascents_of(spec, stage, _MANY)
    budgets: dict[str, float] = {
        "ascents": len(ascents),
        "untargeted ascents": sum(ascent.rank is None for ascent in ascents),
        "iterations": min((ascent.iterations for ascent in ascents), default=0),
        "targets": len({ascent.rank for ascent in ascents} - {None}),
    }
    if "rounds" in REQUIRED[stage]:
        budgets["rounds"] = spec.protocols.rounds
    if "draws" in REQUIRED[stage]:
        budgets["draws"] = spec.protocols.draws
    if "judged iterates" in REQUIRED[stage]:
        every = spec.protocols.every
        budgets["judged iterates"] = sum(-(-(ascent.iterations + 1) // every) for ascent in ascents)
    if "percent of steps" in REQUIRED[stage]:
        budgets["percent of steps"] = _percent_of_steps(spec)
    return budgets


def _percent_of_steps(spec: EvalSpec) -> float:
    steps, last = getattr(spec.defense, "steps", 0), spec.protocols.last
    return 100.0 if last is None or last >= steps else 100 * last / steps


def attack_budget(attack: AttackSpec) -> dict[str, float]:
    """Return the budget of each part of a named attack, by default AutoAttack's own.

    Empty for a user's attack, whose effort is unknown.
    """
    plan = ATTACKS[attack.name]
    budgets: dict[str, float] = {}
    for part in plan.parts:
        if is_users(part):
            continue
        if part == "square":
            budgets[f"{part} queries"] = attack.queries or 5000
            continue
        budgets[f"{part} iterations"] = attack.iterations or plan.iterations or 100
        if part in ("apgd-t", "fab-t"):
            budgets[f"{part} targets"] = attack.targets or plan.targets or 9
        elif part in ("apgd-ce", "apgd-dlr"):
            budgets[f"{part} draws"] = 20 if plan.version == "rand" else 1
    return budgets


def shortfalls(budgets: Mapping[str, Budget], *, random: bool = False) -> dict[str, str]:
    """Describe, by protocol, by how much its budget is below the least budget.

    ``budgets``: of the protocols run, each as :func:`spent` gives it. ``random``: whether
    the defense's answers are, for which AutoAttack rand counts as much as standard.
    """
    lacks = {}
    for stage, budget in budgets.items():
        lacking = _lacking(budget, REQUIRED.get(stage, {}))
        if stage == "published" and random:
            lacking = min(lacking, _lacking(budget, _RAND), key=len)
        if lacking:
            lacks[stage] = ", ".join(lacking)
    return lacks


def _lacking(budget: Budget, least: Budget) -> list[str]:
    return [
        f"{name} {budget[name]:g} of {needed:g}" if name in budget else f"no {name}"
        for name, needed in least.items()
        if budget.get(name, 0) < needed
    ]
