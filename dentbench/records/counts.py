"""Counts of a record that cannot be: 13 of 12 images."""

from __future__ import annotations

import json
import operator
from functools import lru_cache
from typing import Any, Final

from dentbench.records.outcome import Record

IMAGES: Final = (
    *("natural_correct", "robust_correct", "batch_worst_correct", "static_correct"),
    *("autoattack_correct", "natural_given_correct", "gained", "lost"),
)
"""The columns that count images among those evaluated."""

BY_PROTOCOL: Final = ("by_protocol", "static_by_protocol")
"""The columns that count them by protocol, in JSON objects."""


_counted: Final = operator.attrgetter("n", *IMAGES, *BY_PROTOCOL)


def impossible(record: Record) -> str:
    """Return in words which count of a record cannot be, or ""."""
    return _impossible(*_counted(record))


@lru_cache(maxsize=1 << 12)
def _impossible(images: int, *values: Any) -> str:
    """Return the same of the columns that count, the texts of those by protocol last."""
    counts = dict(zip(("n", *IMAGES), (images, *values), strict=False))
    for name, text in zip(BY_PROTOCOL, values[len(IMAGES) :], strict=True):
        try:
            by_protocol = json.loads(text or "{}")
        except ValueError:
            by_protocol = None
        if isinstance(by_protocol, dict):
            counts |= {f"{name}, {protocol}": count for protocol, count in by_protocol.items()}
        else:
            counts[name] = text
    for name, value in counts.items():
        possible = isinstance(value, int) and 0 <= value <= images
        if value is not None and not possible:
            return f"{name} is {value!r} of {images} images, which cannot be"
    return ""
