"""Checks of whether an evaluation can be trusted: what each is, and those that counts decide.

Torch-free, so that a report can read them. The checks that ask the defense itself are in
``probes.py``. They are ours; AutoAttack's own are another set, and its tracer is not used.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

REPEATABLE: Final = "repeatable"
STATELESS: Final = "stateless"
SEPARABLE: Final = "separable"
LOGITS: Final = "logits"
IN_RANGE: Final = "in-range"
GRADIENT: Final = "gradient"
TRUE_GRADIENT: Final = "true-gradient"
EXACT_GRADIENT: Final = "exact-gradient"
ASCENT: Final = "ascent"
BLACK_BOX: Final = "black-box"
TRANSFER: Final = "transfer"
OTHER_BATCHES: Final = "other-batches"
NATURAL_ACCURACY: Final = "natural-accuracy"
PASSES: Final = "passes"

NAMES: Final = (
    *(REPEATABLE, STATELESS, SEPARABLE, LOGITS, IN_RANGE, GRADIENT, TRUE_GRADIENT),
    *(EXACT_GRADIENT, ASCENT, BLACK_BOX, TRANSFER, OTHER_BATCHES, NATURAL_ACCURACY, PASSES),
)
"""Every check, in the order in which they are stored and shown."""

BLACK_BOX_PROTOCOLS: Final = frozenset({"scores", "decision"})
"""The protocols that look at the defense's answers alone."""

GRADIENT_FREE: Final = BLACK_BOX_PROTOCOLS | {"transfer", "batch-mates"}
"""The protocols that follow no gradient of the defense or in its place."""

MORE: Final = 0.002
"""The share of images by which one attack must beat another; AutoAttack's own threshold."""


@dataclass(frozen=True)
class Check:
    """One check: whether it passed (None: it could not be made), its value, and a sentence.

    ``value``: what was measured, or None; the sentence says of what, and what follows.
    """

    name: str
    passed: bool | None
    value: float | None
    sentence: str


def to_json(checks: Iterable[Check]) -> str:
    """Return checks as the JSON object of the column ``checks``, by name."""
    return json.dumps(
        {
            check.name: {
                "passed": check.passed,
                "value": check.value,
                "sentence": check.sentence,
            }
            for check in sorted(checks, key=lambda check: NAMES.index(check.name))
        }
    )


def from_json(text: str | None) -> dict[str, Check]:
    """Return the checks of the column ``checks`` by name; none for a record without them."""
    found: dict[str, dict[str, object]] = json.loads(text or "{}")
    return {name: Check(name=name, **one) for name, one in found.items()}  # type: ignore[arg-type]


def failed(text: str | None) -> tuple[Check, ...]:
    """Return the checks of the column ``checks`` that failed."""
    return tuple(check for check in from_json(text).values() if check.passed is False)


def count_checks(
    counts: Mapping[str, int], broken_by: Mapping[str, int], parts: Collection[str], n: int
) -> tuple[Check, ...]:
    """Return the checks that counts decide: black box against gradients, transfer against direct.

    ``counts``: images right under each protocol; ``broken_by``: images broken by each of the
    ``parts`` of the published attack; ``n``: images judged.
    """
    both = "square" in parts and len(parts) > 1 and "published" in counts
    square = broken_by.get("square", 0) if both else None
    return _black_box(counts, square, n), _transfer(counts, n)


def _black_box(counts: Mapping[str, int], square: int | None, n: int) -> Check:
    """What sees no gradient, alone or as AutoAttack's Square, breaks no more than gradients do."""
    followed = [count for name, count in counts.items() if name not in GRADIENT_FREE]
    blind = [count for name, count in counts.items() if name in BLACK_BOX_PROTOCOLS]
    if blind and followed:
        square = max(min(followed) - min(blind), square or 0)
    if square is None:
        return Check(BLACK_BOX, None, None, "no black box was run beside an attack with gradients")
    passed = square <= MORE * n
    sentence = (
        "attacks that see no gradient break no more images than those that do"
        if passed
        else f"attacks that see no gradient break {square} of {n} images that the attacks "
        "with gradients leave: the gradients mislead"
    )
    return Check(BLACK_BOX, passed, square / n if n else 0.0, sentence)


def _transfer(counts: Mapping[str, int], n: int) -> Check:
    if not {"published", "transfer"} <= set(counts):
        return Check(TRANSFER, None, None, "published and transfer were not both run")
    more = counts["published"] - counts["transfer"]
    passed = more <= MORE * n
    sentence = (
        "the static model's points break no more images than the direct attack"
        if passed
        else f"the static model's points break {more} of {n} images more than the direct attack "
        "does: the published gradient misleads"
    )
    return Check(TRANSFER, passed, more / n if n else 0.0, sentence)
