"""Planted defenses run until the verdict is decided: it is right, and nothing holds early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.evaluation.schedule import DECIDED
from tests.panel import honest, masking, memory
from tests.panel.running import run, said_of
from tests.panel.table import FEW, MAY_SAY, Setting, Truth

pytestmark = [pytest.mark.new_processes, pytest.mark.whole_checks]

LOOKS = Setting(batch=12)
"""So many looks at the planted images that a verdict can be decided before the last."""

NEEDED = ("published", "transfer", "warm", "scores", "decision")
"""The protocols that ``holds`` needs of a defense that answers each image on its own."""


@pytest.mark.parametrize(
    ("defense", "truth"),
    [
        (masking.OtherPlateau, "none"),
        pytest.param(masking.HardLabels, "none", marks=pytest.mark.panel),
        (masking.Saturated, "none"),
        pytest.param(memory.ProcessMemory, "none", marks=pytest.mark.panel),
    ],
    ids=lambda given: getattr(given, "__name__", given),
)
def test_a_planted_defense_that_gains_nothing(defense: type, truth: Truth, tmp_path: Path) -> None:
    actual = run(defense, tmp_path, LOOKS, until=DECIDED)
    assert actual.verdict.kind in MAY_SAY[truth], said_of(actual)


@pytest.mark.panel  # AutoAttack standard: half a minute
def test_one_that_holds_does_so_after_all_that_holds_requires(tmp_path: Path) -> None:
    setting = replace(FEW, batch=FEW.count // 3)
    actual = run(honest.Projection, tmp_path, setting, until=DECIDED)
    assert actual.verdict.kind == "holds", said_of(actual)
    counts = actual.defended.protocol_counts
    assert counts is not None and set(NEEDED) <= counts.keys() <= set(PROTOCOLS)
