"""The long form of the panel: 96 digits, AutoAttack standard, every protocol. Takes hours.

Asked for by ``pytest -m panel``. The truth of a label-preserving defense is the static network's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dentbench.stats import least_batches
from tests.panel import honest, masking, subjects
from tests.panel.running import run, said_of
from tests.panel.table import DIGITS, FEW, MAY_SAY, PLANTS, STATIC, Plant, Setting, remembering

pytestmark = [pytest.mark.panel, pytest.mark.new_processes, pytest.mark.whole_checks]

LONG = Setting(
    data=lambda: subjects.digits(96),
    count=96,
    batch=96,
    attack="standard",
    iterations=None,
    eps=subjects.DIGITS_EPS,
)

PRESERVING = sorted(
    {
        plant.defense
        for plant in PLANTS
        if (plant.robust in (STATIC, remembering) and plant.truth == "none")
        or plant.setting is DIGITS
    }
    - {masking.CounterStep},  # on a linear model alone: elsewhere its step changes labels
    key=lambda kind: kind.__name__,
)
"""Every planted defense with the labels of the network that it is around."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the static network is attacked once for all of them."""
    return tmp_path_factory.mktemp("long")


@pytest.mark.parametrize("kind", PRESERVING, ids=lambda kind: kind.__name__)
def test_on_digits_nothing_holds_and_nothing_is_weaker(kind: type, folder: Path) -> None:
    actual = run(kind, folder, LONG)
    print(said_of(actual))
    assert actual.verdict.kind in ("no gain", "undecided"), said_of(actual)


FULL = [plant for plant in PLANTS if plant.setting.attack == "quick" and plant.setting.count > 24]


@pytest.mark.parametrize("plant", FULL, ids=lambda plant: plant.label)
def test_under_standard_on_few_images(plant: Plant, folder: Path) -> None:
    """The table again, with the budgets that ``holds`` requires."""
    setting = replace(plant.setting, count=24, batch=24, attack="standard", iterations=None)
    actual = run(plant.defense, folder, setting)
    print(said_of(actual))
    assert actual.verdict.kind in MAY_SAY[plant.truth], said_of(actual)


def test_a_coupled_gain_holds(tmp_path: Path) -> None:
    """As many batches as a verdict on images that share them needs."""
    size = FEW.count // least_batches()
    few = Setting(count=FEW.count, batch=size, attack="standard", iterations=None)
    actual = run(honest.CoupledProjection, tmp_path, few)
    assert actual.verdict.kind == "holds", said_of(actual)


def test_a_stronger_attack_is_not_doubted(tmp_path: Path) -> None:
    stronger = Setting(count=FEW.count, batch=FEW.batch, attack="plus", iterations=None)
    actual = run(honest.Projection, tmp_path, stronger)
    assert actual.verdict.kind == "holds", said_of(actual)
