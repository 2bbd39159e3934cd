"""The images that each protocol breaks per pass, of dent in both modes on the digits."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from typing import Any, Final

from dentbench.api import evaluate
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import DentSpec
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.images.arrays import slice_of
from dentbench.zoo.models import load_model

IMAGES: Final = 96
MODES: Final = ("instance", "batch")
LEARNING_RATE: Final = 0.05
"""That of the model's card."""


def of_record(record: Record) -> dict[str, dict[str, int]]:
    """Return the images that each protocol breaks, and its passes."""
    passes = json.loads(record.passes or "{}")
    return {
        name: {"broken": record.natural_correct - right, "passes": passes[name]}
        for name, right in record.protocol_counts.items()
    }


def ordered(result: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """Return the protocols of all records by images broken per pass, the best first."""
    broken, passes = Counter[str](), Counter[str]()
    for item in result.values():
        for name, row in item.items():
            broken[name] += row["broken"]
            passes[name] += row["passes"]
    return sorted(broken, key=lambda name: (-broken[name] / max(passes[name], 1), name))


def measure() -> dict[str, Any]:
    """Return the rows of both modes, and the order that follows."""
    x, y, _ = slice_of(load_dataset("digits"), 0, IMAGES)
    result = {}
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            evaluated = evaluate(
                load_model("digits-robust").network,
                x,
                y,
                defense=DentSpec(mode=mode, lr=LEARNING_RATE),
                attack="quick",
                eps="0.15",
                protocols=tuple(PROTOCOLS),
                batch_size=IMAGES // 2,
                results=folder,
                progress=None,
            )
        result[mode] = of_record(evaluated.defended)
    return {"images": IMAGES, "by_mode": result, "order": ordered(result)}
