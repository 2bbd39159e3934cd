"""The attack and its threat model: a frozen, torch-free value whose eps is an exact fraction."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from dentbench.errors import SpecError
from dentbench.spec.attack_plans import ATTACKS, NO_ATTACK
from dentbench.validation import require_choice, require_count, require_number

NORMS: Final = ("Linf", "L2", "L1")
NORM_NAMES: Final = {
    name: norm
    for norm in NORMS
    for name in (norm.lower(), norm.lower().removeprefix("l"), norm.lower()[1:] + ".0")
}
"""Other writings of the norms, in small letters and without underscores, and the norms."""


_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d\d?)?)"
_FRACTION = re.compile(rf"\s*{_NUMBER}\s*(?:/\s*{_NUMBER}\s*)?", re.ASCII)


@lru_cache
def parse_eps(text: str) -> Fraction:
    """Return the exact value of an eps written as ``8/255``, ``1.5/255``, ``0.5`` or ``3e-2``.

    Raises :class:`SpecError` for anything else, negative and non-finite values included.
    """
    match = _FRACTION.fullmatch(text)
    if match is None or (match[2] is not None and Fraction(match[2]) == 0):
        raise SpecError(
            f"eps is {text!r}; write a number or a fraction of two numbers, not below 0, such as "
            "8/255 or 0.5"
        )
    return Fraction(match[1]) / Fraction(match[2] or 1)


def exact_eps(value: object) -> Fraction:
    """Return eps as an exact fraction: a text as on the command line, or a number as it is.

    A float that is a whole or half number of 255ths to its precision, such as ``8 / 255``, is that
    fraction. Raises :class:`SpecError` unless it is a finite number from 0.
    """
    if isinstance(value, str):
        return parse_eps(value)
    double = isinstance(value, float)
    plain: Any = Fraction(value) if isinstance(value, Decimal) and value.is_finite() else value
    if hasattr(value, "item"):  # of NumPy or torch
        with suppress(ValueError, RuntimeError):  # several numbers, which are refused
            plain = value.item()
    require_number("eps", plain, 0)
    if not isinstance(plain, float):
        return Fraction(plain)
    near = Fraction(round(plain * 510), 510)
    precision = 2.0**-51 if double else 2.0**-22
    return near if abs(float(near) - plain) <= precision * plain else Fraction(plain)


def format_eps(eps: Fraction) -> str:
    """Return the shortest exact writing of eps: a decimal, or 255ths, or a fraction.

    ``parse_eps(format_eps(eps)) == eps`` for every eps that :func:`parse_eps` returns.
    """
    if eps.denominator == 1:
        return str(eps.numerator)
    in_255ths = eps * 255
    for scaled, suffix in ((eps, ""), (in_255ths, "/255")):
        decimal = f"{float(scaled):.10g}"
        if "e" not in decimal and len(decimal) <= 6 and Fraction(decimal) == scaled:
            return decimal + suffix
    return f"{eps.numerator}/{eps.denominator}"


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """The threat model and the attack: a name of ``attacks/catalogue.py``, a norm and an eps.

    ``eps`` is an exact fraction of the [0, 1] pixel range (in L2 and L1 the norm's radius); a text
    or a number becomes one, see :func:`exact_eps`.
    ``iterations``, ``queries`` and ``targets`` override the attack's own budget, and with any of
    them a preset is no longer AutoAttack. The attack "none" leaves the images as they are: norm
    and eps say nothing then, and are Linf and 0.
    """

    name: str = "standard"
    norm: str = "Linf"
    eps: Fraction = Fraction(8, 255)
    iterations: int | None = None
    queries: int | None = None
    targets: int | None = None

    def __post_init__(self) -> None:
        if self.is_none:
            if self.shortened:
                raise SpecError("attack none has no iterations, queries or targets; leave them out")
            object.__setattr__(self, "norm", "Linf")
            object.__setattr__(self, "eps", Fraction(0))
        require_choice("norm", self.norm, NORMS)
        object.__setattr__(self, "eps", exact_eps(self.eps))
        least = {"iterations": 2 if self.norm == "L1" else 1}  # APGD's three stages in L1
        for name in ("iterations", "queries", "targets"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), least.get(name, 1))

    @property
    def is_none(self) -> bool:
        """Whether nothing is attacked."""
        return self.name == NO_ATTACK

    @property
    def resolved(self) -> dict[str, Any]:
        """The plan of the name and the overrides: parts, version, iterations, targets, queries.

        Of a name that no registry has, as that of an attack of a user, the overrides alone.
        """
        values: dict[str, Any] = {}
        if self.name in ATTACKS:
            values = asdict(ATTACKS[self.name])
            del values["title"]
        given = {name: getattr(self, name) for name in ("iterations", "queries", "targets")}
        return values | {name: value for name, value in given.items() if value is not None}

    @property
    def shortened(self) -> bool:
        """Whether the attack's own budget is overridden."""
        return any((self.iterations, self.queries, self.targets))
