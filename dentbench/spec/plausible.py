"""Refuse threat models that are not plausible, such as Linf 8, and remark on odd ones."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from dentbench.errors import SpecError
from dentbench.spec.attack import format_eps

MOST: Final = {"Linf": 1, "L2": 16}
"""The least eps that is refused, whatever the size of the images."""

LEAST: Final = {"L2": Fraction(1, 20), "L1": Fraction(1, 2)}
"""The eps of these norms below which another norm may have been meant."""

ROUNDED: Final = range(1, 17)
"""The numbers of 255ths that users write as rounded decimals."""

USUAL: Final = "of CIFAR-10, 8/255 is usual in Linf, 0.5 in L2 and 12 in L1"

GO_ON: Final = "or go on with --force (force=True)"


def require_plausible(norm: str, eps: Fraction, pixels: int | None = None) -> None:
    """Raise :class:`~dentbench.errors.SpecError` for an eps that can hardly be meant.

    ``pixels``: how many numbers in [0, 1] an image is made of; None where that is not known. An eps
    is implausible that lets any image become any other (Linf), or become plain gray (L2, L1).
    """
    if norm in MOST and eps >= MOST[norm]:
        given = format_eps(eps)
        hint = "give less" if "/" in given else f"did you mean {given}/255? Give it so"
        raise SpecError(f"eps is {given} in {norm}, for pixels in [0, 1]; {hint}, {GO_ON}")
    if pixels is None or norm == "Linf":
        return
    most = math.sqrt(pixels) / 2 if norm == "L2" else pixels / 2
    if eps >= most:
        hint = f"did you mean {format_eps(eps)}/255? " if norm == "L2" else ""
        raise SpecError(
            f"eps is {format_eps(eps)} in {norm}, where {most:.3g} make plain gray of any image of "
            f"these {pixels:,} pixels in [0, 1]; {hint}Give a smaller eps, {GO_ON}"
        )


def remark(norm: str, eps: Fraction) -> str:
    """Return what may have been meant by an eps that is allowed but odd; "" for any other.

    Odd is what was rounded from a number of 255ths, or is usual in another norm.
    """
    given, parts = f"eps is {format_eps(eps)} in {norm}", round(255 * eps)
    is_rounded = parts in ROUNDED and 0 < abs(255 * eps - parts) < Fraction(1, 10)
    if norm == "Linf" and is_rounded:
        return f"{given}; if {parts}/255 is meant, write it so: --eps takes exact fractions"
    if norm == "Linf" and eps >= Fraction(1, 2):
        return f"{given}, which makes plain gray of any image; {USUAL}"
    if 0 < eps < LEAST.get(norm, 0):
        return f"{given}, which hardly changes an image; {USUAL}"
    return ""
