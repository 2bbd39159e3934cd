"""Counts of a record that cannot be: 13 of 12 images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from dentbench.records.outcome import Record

IMAGES: Final = (
    *("natural_correct", "robust_correct", "batch_worst_correct", "static_correct"),
    *("autoattack_correct", "natural_given_correct", "gained", "lost"),
)
"""The columns that count images among those evaluated."""

BY_PROTOCOL: Final = ("by_protocol", "static_by_protocol")
"""The columns that count them by protocol, in JSON objects."""


def impossible(record: Record) -> str:
    """Return in words which count of a record cannot be, or ""."""
    for name, value in _counts(record):
        if not isinstance(value, int) or not 0 <= value <= record.n:
            return f"{name} is {value!r} of {record.n} images, which cannot be"
    return ""


def _counts(record: Record) -> Iterator[tuple[str, Any]]:
    yield "n", record.n
    for name in IMAGES:
        value = getattr(record, name)
        if value is not None:
            yield name, value
    for name in BY_PROTOCOL:
        try:
            counts = json.loads(getattr(record, name) or "{}")
        except ValueError:
            counts = None
        if not isinstance(counts, dict):
            yield name, getattr(record, name)
            continue
        for protocol, value in counts.items():
            if value is not None:
                yield f"{name}, {protocol}", value
