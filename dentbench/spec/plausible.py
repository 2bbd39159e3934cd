"""Refuse threat models that are not plausible, such as an eps that was not divided by 255."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final

from dentbench.errors import SpecError

MOST: Final = {"Linf": 1, "L2": 16}
"""The least eps that is refused, whatever the size of the images."""

GO_ON: Final = "or go on with --force (force=True)"


def require_plausible(norm: str, eps: Fraction, pixels: int | None = None) -> None:
    """Raise :class:`~dentbench.errors.SpecError` for an eps that can hardly be meant.

    ``pixels``: how many numbers in [0, 1] an image is made of; None where that is not known. An eps
    is implausible that lets any image become any other (Linf), or become plain gray (L2, L1).
    """
    if norm in MOST and eps >= MOST[norm]:
        raise SpecError(
            f"eps is {_text(eps)} in {norm}, for pixels in [0, 1]; did you mean {_text(eps)}/255? "
            f"Give it so, {GO_ON}"
        )
    if pixels is None or norm == "Linf":
        return
    most = math.sqrt(pixels) / 2 if norm == "L2" else pixels / 2
    if eps >= most:
        hint = f"did you mean {_text(eps)}/255? " if norm == "L2" else ""
        raise SpecError(
            f"eps is {_text(eps)} in {norm}, where {most:.3g} make plain gray of any image of "
            f"these {pixels:,} pixels in [0, 1]; {hint}Give a smaller eps, {GO_ON}"
        )


def _text(eps: Fraction) -> str:
    return f"{float(eps):g}"
