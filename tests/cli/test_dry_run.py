"""Dry runs for GPUs that are not at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import Run


def test_the_time_names_what_it_is_scaled_from(dentbench: Run) -> None:
    words = ("--dry-run", "--device", "H100", "--precision", "tf32", "--examples", "8")
    code, printed, errors = dentbench("evaluate", *words)
    text = " ".join(printed.split())
    assert code == 0, errors
    assert "on one H100, tf32: ResNet-20 as measured on an NVIDIA H200" in text
    assert "1.43 times the H200's time" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "h100"], "names a kind of GPU for --dry-run"),
        (["--dry-run", "--device", "a100"], "a GPU whose speed is known: h200, h100"),
    ],
)
def test_other_gpus_are_refused(words: list[str], said: str, dentbench: Run) -> None:
    code, _, errors = dentbench("evaluate", *words)
    assert code == 2 and said in " ".join(errors.split()), errors


def test_every_value_of_a_grid_has_its_block(dentbench: Run, tmp_path: Path) -> None:
    grid = ("--mode", "instance", "--steps", "1", "--blur", "none", "static")
    words = ("--lr", "0.01", "0.05", "--examples", "4", "--protocol", "transfer", "--dry-run")
    threat = ("--norm", "Linf", "--eps", "0.1", "--attack", "quick", "--json")
    code, printed, errors = dentbench(
        *("ablate", "--model", "digits-robust", *grid, *words, *threat),
        *("--results", str(tmp_path)),
    )
    assert code == 0, errors
    rows = json.loads(printed)["estimates"]
    names = [row["defense"] for row in rows if row["stage"] == "transfer"]
    blurred = "instance, 1 step, static blur"
    assert names == [
        *("instance, 1 step, lr 0.01", "instance, 1 step, lr 0.05"),
        *(f"{blurred}, lr 0.01", f"{blurred}, lr 0.05"),
    ]
    assert not [*tmp_path.iterdir()]
