"""Every planted defense is evaluated; its truth must allow the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentbench.attacks.checks import failed
from tests.helpers import shorten_standard
from tests.panel import ball_parts
from tests.panel.running import run, said_of
from tests.panel.subjects import planted, robust_count
from tests.panel.table import BALL_PARTS, HONEST, MASKING, MAY_SAY, PLANTS, RANDOM, Plant

pytestmark = pytest.mark.whole_checks


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, in which each static model is attacked once."""
    return tmp_path_factory.mktemp("panel")


def marks_of(plant: Plant) -> list[pytest.MarkDecorator]:
    """Return the marks of a plant: what keeps no memory and knows no caller needs no process."""
    like = [pytest.mark.panel] if plant.like else []
    return (
        like
        if plant in (*MASKING, *BALL_PARTS, *RANDOM, *HONEST)
        else [*like, pytest.mark.new_processes]
    )


@pytest.mark.parametrize(
    "plant",
    [pytest.param(plant, marks=marks_of(plant)) for plant in PLANTS],
    ids=lambda plant: plant.label,
)
def test_what_is_said_is_allowed_by_the_truth(
    plant: Plant, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_standard(monkeypatch)
    actual = run(plant.defense, results, plant.setting)
    record, said, text = actual.defended, actual.verdict, said_of(actual)
    assert said.kind in plant.allowed, text
    failing = {check.name for check in failed(record.checks)}
    assert plant.fails <= failing, text
    assert not plant.honest or plant.fails == failing, f"an honest defense is doubted\n{text}"
    if "repeatable" in plant.fails:
        assert "expected over 10 draws" in said.sentence, text
    if plant.robust is not None:
        least, most = plant.robust()
        assert record.robust_correct >= least, f"what cannot be broken was broken\n{text}"
        if plant.broken_by:
            counts = [record.protocol_counts[name] for name in plant.broken_by]
            assert min(counts) <= most, text
    if plant.difference is not None:
        assert round(said.gain_points * record.n / 100) == plant.difference, text
    if said.kind == "undecided":
        assert said.doubts or "would decide" in said.sentence, text
    if said.p_value < 0.05 and said.gain_points > 0 and plant.truth != "gain":
        failures = [
            doubt
            for doubt in said.doubts
            if doubt.startswith(("the check ", "the static model's check "))
        ]
        assert failures, f"with larger budgets this would hold\n{text}"


@pytest.mark.parametrize("plant", BALL_PARTS[:-4], ids=lambda plant: plant.label)
def test_a_part_of_the_ball_is_weaker_than_the_static_model(plant: Plant) -> None:
    count = plant.setting.count
    defense = plant.defense
    assert issubclass(defense, ball_parts.WeakInAPart)
    assert ball_parts.broken(defense, count) > count - robust_count(planted()[0], count)


def test_the_table_is_whole() -> None:
    tried = {plant.label: plant for plant in PLANTS if not plant.like}
    assert len({plant.defense for plant in tried.values()}) >= 40
    assert len({plant.label for plant in PLANTS}) == len(PLANTS)
    for plant in PLANTS:
        assert plant.allowed, plant.label
        assert not plant.like or tried[plant.like].truth == plant.truth, plant.label
        assert plant.allowed <= MAY_SAY[plant.truth]
