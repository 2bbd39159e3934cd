"""Pairs of records whose evaluations leave no doubt."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dentbench.attacks.checks import (
    INDISPENSABLE,
    PLANTED,
    Check,
    to_json,
)
from dentbench.attacks.required_budgets import REQUIRED
from dentbench.records.outcome import Record

Make = Callable[..., Record]


DENT = {"mode": "instance", "steps": 6}


ALL = {"published": 420, "transfer": 400, "warm": 400, "bpda": 390, "scores": 388, "decision": 385}


MADE = [
    *(Check(name, True, 0.0, "as it should be") for name in INDISPENSABLE),
    Check(PLANTED, True, 1.0, "all are found", {"published": 1.0, "warm": 1.0}),
]


CHECKS = to_json(MADE)


BUDGETS = {name: dict(least) for name, least in REQUIRED.items()}


SOUND: dict[str, Any] = {
    "separable": True,
    "checks": CHECKS,
    "static_checks": CHECKS,
    "budgets": json.dumps(BUDGETS),
}
"""The columns of a record whose evaluation leaves no doubt."""


def pair(
    make: Make, static: int, counts: dict[str, int], gained: int, lost: int, n: int, **changes: Any
) -> tuple[Record, Record]:
    common = {"n": n, "count": n, **changes}
    defended = make(2, n, counts, **common, **DENT, gained=gained, lost=lost)
    worst = static + gained - lost
    return make(1, n, {"published": static}, **common), replace(defended, robust_correct=worst)
