"""Name -> attack: the parts of every attack that has a name; the place to add another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dentbench.registry import Registry

NO_ATTACK: Final = "none"
"""The name of the attack that leaves images as they are: natural accuracy alone is counted."""


@dataclass(frozen=True, kw_only=True)
class AttackPlan:
    """A named attack: AutoAttack's parts in order, and their budget.

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


def is_users(name: str) -> bool:
    """Return whether an attack is a user's: ``module:callable``, with the hash of its source."""
    return ":" in name


class _Attacks(Registry[AttackPlan]):
    """The catalogue; an attack of a user is a plan of itself, wherever it is asked for."""

    def canonical(self, name: str) -> str:
        """Return the canonical form of a name; that of a user's attack is itself."""
        return name if is_users(name) else super().canonical(name)

    def __getitem__(self, name: str) -> AttackPlan:
        if is_users(name):
            return AttackPlan(parts=(name,), title=f"{name}, an attack of the user")
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (is_users(name) or super().__contains__(name))


ATTACKS: Final[Registry[AttackPlan]] = _Attacks("attack", has_code=True)
"""Every attack that ``--attack`` takes."""

ATTACKS.add(
    "standard",
    AttackPlan(
        parts=("apgd-ce", "apgd-t", "fab-t", "square"), title="AutoAttack standard", official=True
    ),
    aliases=("autoattack", "auto-attack", "aa"),
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
        title="quick: APGD-CE and APGD-T with 3 targets, 10 iterations each",
        iterations=10,
        targets=3,
    ),
)
ATTACKS.add(NO_ATTACK, AttackPlan(parts=(), title="no attack: natural accuracy alone"))
for _part, _title in {
    "apgd-ce": "APGD-CE",
    "apgd-dlr": "APGD-DLR",
    "apgd-t": "APGD-T",
    "fab": "FAB",
    "fab-t": "FAB-T",
    "square": "Square",
}.items():
    ATTACKS.add(_part, AttackPlan(parts=(_part,), title=_title))
