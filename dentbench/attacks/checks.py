"""Name the checks of whether an evaluation can be trusted, and store their results.

Torch-free, so that a report can read them. The checks that ask the defense itself are in
``attacks/probes``, those that follow from outcomes in ``evaluation/checks``. They are ours;
AutoAttack's own are another set, and its tracer is not used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

REPEATABLE: Final = "repeatable"
STATELESS: Final = "stateless"
SEPARABLE: Final = "separable"
MODES: Final = "modes"
LOGITS: Final = "logits"
FINITE: Final = "finite"
SCORES: Final = "scores"
IN_RANGE: Final = "in-range"
GRADIENT: Final = "gradient"
TRUE_GRADIENT: Final = "true-gradient"
EXACT_GRADIENT: Final = "exact-gradient"
ASCENT: Final = "ascent"
LARGE_EPS: Final = "large-eps"
MONOTONE: Final = "monotone"
NOISE: Final = "noise"
CONVERGED: Final = "converged"
PLANTED: Final = "planted"
BLACK_BOX: Final = "black-box"
SAME_VERDICT: Final = "same-verdict"
SAME_ANSWERS: Final = "same-answers"
SAME_ASCENT: Final = "same-ascent"
TRANSFER: Final = "transfer"
OTHER_BATCHES: Final = "other-batches"
NATURAL_ACCURACY: Final = "natural-accuracy"
FRESH_PROCESS: Final = "fresh-process"
ORDER: Final = "order"
GAINED_IMAGES: Final = "gained-images"
LOST_IMAGES: Final = "lost-images"
PASSES: Final = "passes"

NAMES: Final = (
    *(REPEATABLE, STATELESS, SEPARABLE, MODES, LOGITS, SCORES, IN_RANGE, GRADIENT, TRUE_GRADIENT),
    *(EXACT_GRADIENT, ASCENT, LARGE_EPS, MONOTONE, NOISE, CONVERGED, PLANTED, BLACK_BOX),
    *(TRANSFER, SAME_VERDICT, SAME_ANSWERS, SAME_ASCENT, FINITE, OTHER_BATCHES, NATURAL_ACCURACY),
    *(FRESH_PROCESS, ORDER, GAINED_IMAGES, LOST_IMAGES, PASSES),
)
"""Every check, in the order in which they are stored and shown."""

CLIMBING: Final = (ASCENT, LARGE_EPS, MONOTONE, NOISE, CONVERGED, SAME_ASCENT)
"""The checks that climb along the published gradient."""

SAME: Final = 1e-3
"""Answers differ when a logit does by more than this share of the logits' range (tf32 passes)."""

INDISPENSABLE: Final = (STATELESS, FRESH_PROCESS)
"""The checks that must have been made: without any of them a doubt is left."""

OF_DEFENSES: Final = frozenset({FRESH_PROCESS})
"""The checks that are made of defenses alone, not of the static model."""


@dataclass(frozen=True)
class Check:
    """A check: whether it passed (None: it could not be made), its value, and a sentence.

    ``value``: the measurement, or None; the sentence explains it and its consequence. ``shares``:
    the value of each protocol by name, or of each image by its number, where the check has them.
    """

    name: str
    passed: bool | None
    value: float | None
    sentence: str
    shares: Mapping[str, float] | None = None


def to_json(checks: Iterable[Check]) -> str:
    """Return checks as the JSON object of the column ``checks``, by name."""
    by_name: dict[str, dict[str, object]] = {}
    for check in sorted(checks, key=lambda check: NAMES.index(check.name)):
        by_name[check.name] = {
            "passed": check.passed,
            "value": check.value,
            "sentence": check.sentence,
        }
        if check.shares is not None:
            by_name[check.name]["shares"] = dict(check.shares)
    return json.dumps(by_name)


@lru_cache(maxsize=1 << 8)
def from_json(text: str | None) -> Mapping[str, Check]:
    """Return the checks of the column by name, leaving out entries that are no check."""
    entries = json.loads(text or "{}")
    fields = {"passed", "value", "sentence"}
    return {
        name: Check(name=name, **entry)
        for name, entry in entries.items()
        if isinstance(entry, dict) and entry.keys() - {"shares"} == fields
    }


def unsettled(text: str | None, *, static: bool = False) -> tuple[Check, ...]:
    """Return the checks that failed, and the indispensable checks that were not made.

    ``static``: whether they are those of a static model.
    """
    made = from_json(text)
    needed = [name for name in INDISPENSABLE if not (static and name in OF_DEFENSES)]
    missing = (Check(name, None, None, "it was not made") for name in needed if name not in made)
    unmade = (check for check in made.values() if check.name in needed and check.passed is None)
    return (*failed(text), *unmade, *missing)


@lru_cache(maxsize=1 << 8)
def failed(text: str | None) -> tuple[Check, ...]:
    """Return the checks of the column ``checks`` that failed."""
    return tuple(check for check in from_json(text).values() if check.passed is False)
