"""Whole studies from a config file, and a run repeated from its record."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import typer

from dentbench.cli import app, config, repeat
from dentbench.errors import SpecError, StoreError
from dentbench.records.results_csv import read
from tests.helpers import Run

PARAMS = typer.main.get_command(app.app).commands["evaluate"].params  # type: ignore[attr-defined]


def written(folder: Path, text: str, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_list_for_one_value_and_every_study_are_runs(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'mode = ["instance", "batch"]\nbatch-size = 8\nmodel = ["a", "b"]\n'
        '[[study]]\nseed = [1, 2]\n[[study]]\nmode = "static"\nbatch-size = 4\n',
    )
    actual = config.runs(path, PARAMS)
    short = [(item["mode"], item["batch_size"], item.get("seed")) for item in actual]
    grid = [(mode, 8, seed) for mode in ("instance", "batch") for seed in (1, 2)]
    assert sorted(short[:4]) == sorted(grid) and short[4:] == [("static", 4, None)]
    assert all(item["model"] == ["a", "b"] for item in actual)


def test_pyproject_has_a_table(tmp_path: Path) -> None:
    text = '[project]\nname = "x"\n[tool.dentbench]\nexamples = 3\n'
    assert config.runs(written(tmp_path, text, "pyproject.toml"), PARAMS) == [{"examples": 3}]
    with pytest.raises(SpecError, match=r"has no table \[tool.dentbench\]"):
        config.runs(written(tmp_path, "[tool.other]\n"), PARAMS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode = []", "nothing to run"),
        ("study = 3", r"each study as a table \[\[study\]\]"),
        ("mode = [", "is not TOML: invalid"),
        ("attack = quick", 'is not TOML: invalid value .* texts in quotes: attack = "quick"'),
    ],
)
def test_bad_studies(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        config.runs(written(tmp_path, text), PARAMS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("examples = 3".encode("utf-16"), "it is UTF-16 text, not UTF-8; save it as UTF-8"),
        ("a = 1\nmodel = 'M\xfcller'".encode("latin-1"), "line 2 is not UTF-8 text; save"),
    ],
)
def test_a_file_of_another_encoding(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=words) as caught:
        config.read(path)
    assert "codec" not in str(caught.value)


def test_a_study_runs_whole_is_kept_and_resumes(
    dentbench: Run,
    tmp_path: Path,
) -> None:
    text = (
        'attack = "apgd-ce"\niterations = 2\nexamples = 6\nsteps = 1\nquiet = true\n'
        'mode = ["instance", "batch"]\nprotocol = ["published"]\n'
    )
    path = written(tmp_path, text)
    code, out, err = dentbench("evaluate", "--config", str(path), "--seed", "4")
    assert code == 0 and len(out.splitlines()) == 2
    assert f"{path}, run 2 of 2" in err
    rows = dentbench.rows()
    assert [(row["mode"], row["seed"]) for row in rows] == [
        ("static", "4"),
        ("instance", "4"),
        ("batch", "4"),
    ]
    (kept,) = (dentbench.results / "configs").iterdir()
    assert kept.name.startswith("study-") and kept.read_text() == text

    again, same, _ = dentbench("evaluate", "--config", str(path), "--seed", "4")
    assert (again, same) == (0, out) and dentbench.rows() == rows

    key = rows[2]["key"]
    code, out, _ = dentbench(
        "evaluate", "--from-record", f"results/{key[:6]}", "--results", "new", "-q"
    )
    assert code == 0 and "batch-wise dent, 1 step" in out
    with (tmp_path / "new" / "results.csv").open(newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == [rows[0]["key"], key]
    code, _, err = dentbench("evaluate", "--from-record", key, "--seed", "5", "-q")
    assert code == 2 and f"another one than record {key}" in err
    assert repeat.expanded(["evaluate", "--seed", "1"]) == ["evaluate", "--seed", "1"]
    with pytest.raises(StoreError, match="no record in results has the key 'xyz'"):
        repeat.expanded(["evaluate", "--from-record=xyz"])
    assert len(read(dentbench.results)) == 3  # a run that is refused adds nothing


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ('modle = "x"', "sets 'modle', which is no option; did you mean"),
        ('quiet = "yes"', "gives quiet the value 'yes'; true or false"),
    ],
)
def test_a_mistake_in_a_later_study_stops_the_first(
    dentbench: Run, tmp_path: Path, wrong: str, words: str
) -> None:
    (tmp_path / "two.toml").write_text(
        f'examples = 4\nmode = "static"\n[[study]]\nseed = 1\n[[study]]\n{wrong}\n'
    )
    code, _, said = dentbench("evaluate", "--config", "two.toml", "--results", "r")
    assert code == 2 and words in said
    assert not (tmp_path / "r").exists()


LATER = (
    ('model = "nope"', "unknown model 'nope'"),
    ('data = "x.npz"', "there is no data file x.npz"),
    ("first = 1797", "has 500 images"),
    ('steps = "six"', "--steps is 'six'; it must be a whole number, such as 6"),
    ('eps = "8"', "did you mean 8/255?"),
    ('mode = "instance"\nlayers = "groupnorm"', "has no GroupNorm layer"),
)
"""Refusals at once, from a name to a part that the loaded network lacks, and their words."""


@pytest.mark.parametrize(("wrong", "words"), LATER)
def test_what_a_later_study_names_is_checked_first(
    dentbench: Run, tmp_path: Path, wrong: str, words: str
) -> None:
    (tmp_path / "two.toml").write_text(
        f'examples = 4\nattack = "quick"\n[[study]]\nmode = "static"\n[[study]]\n{wrong}\n'
    )
    code, _, said = dentbench("evaluate", "--config", "two.toml")
    assert code == 2 and said.startswith("dentbench: two.toml, run 2 of 2: ") and words in said
    assert not list(dentbench.results.glob("r*/*"))


def test_a_gain_is_required_of_a_defense(dentbench: Run) -> None:
    code, _, said = dentbench("evaluate", "--mode", "static", "--require-gain", "5")
    assert code == 2 and "needs a defense" in said and not dentbench.results.exists()
