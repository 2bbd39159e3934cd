"""The static model as its own defense, on 500 digits, under ``quick`` and every protocol.

The defense faces what its static model faces, so that the two must be equal to the image. Run
``python -m tests.benchmarks identity``, again where it was stopped.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from dentbench.attacks.checks import failed
from tests.benchmarks.null_verdicts import Identity

COUNT: Final = 500
FOLDER: Final = Path("results/runs/identity")


class CoupledIdentity(Identity):
    """The same, which does not say that it answers each image on its own."""

    separable = False


def measure() -> dict[str, Any]:
    """Return the verdict on either, and the images right on both sides."""
    return {kind.__name__: _measured(kind) for kind in (Identity, CoupledIdentity)}


def _measured(kind: type) -> dict[str, Any]:
    from dentbench.api import evaluate
    from dentbench.attacks.catalogue import PROTOCOLS
    from dentbench.spec.evaluation import AttackSpec
    from dentbench.zoo.datasets import load_dataset
    from dentbench.zoo.images.arrays import slice_of
    from dentbench.zoo.models import load_model

    x, y, _ = slice_of(load_dataset("digits"), 0, COUNT)
    result = evaluate(
        load_model("digits-robust").network,
        x,
        y,
        defense=kind,
        attack=AttackSpec(name="quick", eps=Fraction(1, 5)),
        protocols=tuple(PROTOCOLS),
        results=FOLDER,
        progress=None,
    )
    record = result.defended
    return {
        "images": record.n,
        "static, own attack": result.static.robust_correct,
        "static, equal effort": record.static_correct,
        "defense, worst case": record.robust_correct,
        "gained": record.gained,
        "lost": record.lost,
        "by protocol": json.loads(record.by_protocol),
        "static by protocol": json.loads(record.static_by_protocol or "{}"),
        "verdict": result.verdict.sentence,
        "failed checks": [check.name for check in failed(record.checks)],
        "passes": json.loads(record.passes or "{}"),
    }
