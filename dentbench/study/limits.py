"""Parse the limits of a run: a duration, a number of passes. Torch-free."""

from __future__ import annotations

import math
import re
from typing import Final

from dentbench.errors import SpecError

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as "2h", "90m", "1h30m" or "45s", above 0.

    Raises :class:`~dentbench.errors.SpecError` for anything else.
    """
    written = text.strip()
    parts = _PART.findall(written)
    rest = _PART.sub("", written).strip()
    seconds = sum(float(number) * _UNITS[unit.lower()] for number, unit in parts)
    if not parts or rest or seconds <= 0:
        raise SpecError(
            f"--time-limit is {text!r}; write a duration above 0 with its units, such as 2h, 90m, "
            "1h30m or 45s"
        )
    return seconds


def parse_passes(text: str) -> int:
    """Return a number of passes such as "1000000", "1,000,000" or "1e9", from 1.

    Raises :class:`~dentbench.errors.SpecError` for anything else.
    """
    try:
        number = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 1 or number != int(number):
        raise SpecError(
            f"--pass-limit is {text!r}; write a whole number of passes from 1, such as 1000000 or "
            "1e9"
        )
    return int(number)
