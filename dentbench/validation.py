"""Checks of single values of a spec; each raises SpecError with what was got and is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from fractions import Fraction
from typing import Final

from dentbench.errors import SpecError


def require_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise :class:`SpecError` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise SpecError(
            f"{name} is {value!r}; allowed: {', '.join(allowed)}{suggestion(str(value), allowed)}"
        )


def suggestion(name: str, known: Collection[str]) -> str:
    """Return "; did you mean ...?" with the names nearest to a name, or "" where none is near."""
    names = nearest(name, known)[:3]
    return f"; did you mean {' or '.join(names)}?" if names else ""


_NEARLY: Final = 0.85
"""The share of letters in common from which on a name nearly is another."""


def nearest(name: str, known: Collection[str]) -> list[str]:
    """Return the known names like a name, the best first: those that hold it or that it holds.

    Beside these, those that nearly are it. Where none holds it, one much farther than the best is
    noise and left out.
    """
    given = name.lower()
    scores = {}
    for choice in known:
        short, long = sorted((given, choice.lower()), key=len)
        score = difflib.SequenceMatcher(None, choice.lower(), given).ratio()
        scores[choice] = score + (len(short) > 2 and short in long)
    highest = max(scores.values(), default=0)
    least = _NEARLY if highest >= 1 else max(0.5, highest - 0.25)
    best = sorted(scores, key=lambda choice: -scores[choice])
    return [choice for choice in best if scores[choice] >= least]


def encoding_fault(content: bytes) -> str:
    """Return what is wrong with a text file that is not UTF-8, and what to do; "" where it is."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is UTF-16 text, not UTF-8; save it as UTF-8"
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"line {line} is not UTF-8 text; save the file as UTF-8"
    return ""


def require_number(
    name: str, value: object, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    """Raise :class:`SpecError` unless ``value`` is a finite number in ``[low, high]``.

    ``open_low`` excludes ``low`` itself.
    """
    ok = isinstance(value, int | float | Fraction) and not isinstance(value, bool)
    ok = ok and _is_finite(value) and low <= value <= high  # type: ignore[arg-type,operator]
    if not ok or (open_low and value == low):
        span = f"greater than {low:g}" if open_low else f"at least {low:g}"
        span += "" if math.isinf(high) else f" and at most {high:g}"
        raise SpecError(f"{name} is {value!r}; it must be a finite number, {span}")


def _is_finite(value: float | Fraction) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number or fraction that no float can hold
        return False


def require_count(name: str, value: object, low: int) -> None:
    """Raise :class:`SpecError` unless ``value`` is an integer of at least ``low``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise SpecError(f"{name} is {value!r}; it must be a whole number, at least {low}")
