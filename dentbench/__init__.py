"""DentBench tells whether a dynamic (test-time adapting) adversarial defense really holds."""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dentbench.adapt.adaptation import Adaptation
    from dentbench.adapt.dent import Dent
    from dentbench.api import evaluate
    from dentbench.defenses.stand_ins import smooth_sign
    from dentbench.records.frame import read_results
    from dentbench.records.outcome import Record
    from dentbench.records.samples import read_samples
    from dentbench.report.table import Table
    from dentbench.spec.evaluation import AttackSpec, DefenseSpec, DentSpec, ProtocolSpec

    __version__: str

__all__ = [
    "Adaptation",
    "AttackSpec",
    "DefenseSpec",
    "Dent",
    "DentSpec",
    "ProtocolSpec",
    "Record",
    "Table",
    "evaluate",
    "read_results",
    "read_samples",
    "smooth_sign",
]

_HOMES = {
    "read_results": "dentbench.records.frame",
    "read_samples": "dentbench.records.samples",
    "Adaptation": "dentbench.adapt.adaptation",
    "AttackSpec": "dentbench.spec.evaluation",
    "DefenseSpec": "dentbench.spec.evaluation",
    "Dent": "dentbench.adapt.dent",
    "DentSpec": "dentbench.spec.evaluation",
    "ProtocolSpec": "dentbench.spec.evaluation",
    "Record": "dentbench.records.outcome",
    "Table": "dentbench.report.table",
    "evaluate": "dentbench.api",
    "smooth_sign": "dentbench.defenses.stand_ins",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: importing dentbench must not load torch."""
    if name == "__version__":
        from importlib import metadata  # late: it is slow, and few ask for it

        return metadata.version("dentbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'dentbench' has no attribute {name!r}")
    state = random.getstate()
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    finally:
        random.setstate(state)  # rich draws a number when it is imported


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
