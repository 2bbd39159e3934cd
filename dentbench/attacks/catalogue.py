"""Name -> attack and name -> protocol: the one place to add one.

Torch-free, so that a bad name is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dentbench.registry import Registry
from dentbench.spec import AttackSpec


@dataclass(frozen=True, kw_only=True)
class AttackPlan:
    """What a named attack runs: AutoAttack's parts in order, and their budget.

    ``parts``: names of single attacks, each run on the images that are still right.
    ``version``: AutoAttack's own preset whose settings the parts take. ``official``: whether the
    name stands for AutoAttack itself. ``iterations``, ``targets``: overrides of the preset.
    """

    parts: tuple[str, ...]
    title: str
    version: str = "standard"
    official: bool = False
    iterations: int | None = None
    targets: int | None = None


ATTACKS: Final[Registry[AttackPlan]] = Registry("attack")
"""Every attack that ``--attack`` takes."""

ATTACKS.add(
    "standard",
    AttackPlan(
        parts=("apgd-ce", "apgd-t", "fab-t", "square"), title="AutoAttack standard", official=True
    ),
)
ATTACKS.add(
    "plus",
    AttackPlan(
        parts=("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
        title="AutoAttack plus",
        version="plus",
        official=True,
    ),
)
ATTACKS.add(
    "rand",
    AttackPlan(
        parts=("apgd-ce", "apgd-dlr"), title="AutoAttack rand", version="rand", official=True
    ),
)
ATTACKS.add(
    "quick",
    AttackPlan(
        parts=("apgd-ce", "apgd-t"),
        title="quick: APGD-CE and APGD-T with 3 targets, 20 iterations each",
        iterations=20,
        targets=3,
    ),
)
for _part, _title in {
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "fab": "FAB",
    "fab-t": "FAB-T",
    "square": "Square",
}.items():
    ATTACKS.add(_part, AttackPlan(parts=(_part,), title=_title))


def attack_label(spec: AttackSpec) -> str:
    """Return what an attack is, in words: AutoAttack's preset, or what and "not AutoAttack"."""
    plan = ATTACKS[spec.name]
    overrides = [
        f"{name} {value}"
        for name in ("iterations", "queries", "targets")
        if (value := getattr(spec, name)) is not None
    ]
    changed = f" with {', '.join(overrides)}" if overrides else ""
    if plan.official and not overrides:
        return plan.title
    return f"{plan.title}{changed} (not AutoAttack)"


@dataclass(frozen=True, kw_only=True)
class ProtocolCard:
    """A way to attack a defense.

    ``function``: ``module:name`` of the function that carries it out (see ``protocols.py``).
    ``summary``: what it does, in words. ``needs_static``: whether it uses the static model's
    adversarial points.
    """

    function: str
    summary: str
    needs_static: bool = False


PROTOCOLS: Final[Registry[ProtocolCard]] = Registry("protocol")
"""Every protocol that ``--protocol`` takes."""

PROTOCOLS.add(
    "published",
    ProtocolCard(
        function="dentbench.attacks.protocols:published",
        summary="the defense itself is attacked, gradient through the last forward only",
    ),
)
PROTOCOLS.add(
    "transfer",
    ProtocolCard(
        function="dentbench.attacks.protocols:transfer",
        summary="the static model's adversarial points are judged on the defense",
        needs_static=True,
    ),
)

DEFAULT_PROTOCOLS: Final = ("published", "transfer")
