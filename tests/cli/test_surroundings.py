"""Homes, terminals, standard outputs and config files as users have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dentbench.cli import config, json_output
from dentbench.records import results_csv
from dentbench.zoo.download.cache import default_cache
from tests.helpers import ROOT, Run, record


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for number in (1, 2):
        results_csv.append(tmp_path / "results", record(number))
    return tmp_path / "results"


def test_a_tilde_is_the_home_folder_wherever_it_stands(
    dentbench: Run, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (("--results", "~/results"), ("--results=~/results",)):
        code, out, err = dentbench("report", *given, "--format", "csv")
        assert code == 0 and out.count("\n") > 1, err
        code, _, err = dentbench("report", *given, "--format", "csv", "--out=~/table.csv")
        assert code == 0 and (tmp_path / "table.csv").read_text() == out, err
        (tmp_path / "table.csv").unlink()
    assert not (tmp_path / "~").exists()
    assert config.home_expanded("~/x") == str(tmp_path / "x")
    assert config.home_expanded("a~b") == "a~b"


def test_config_files_hold_homes_and_small_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    values = (0.00001, 1e-7, 0.5, 3, "~/data.npz", True, [0.00001, 2])
    written = [config._text(value) for value in values]
    home = str(tmp_path / "data.npz")
    assert written == ["0.00001", "0.0000001", "0.5", "3", home, "True", "0.00001,2"]


def test_without_a_home_there_is_a_cache_still(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "DENTBENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_cache().is_absolute()
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no such user
    assert default_cache().is_absolute() and "~" not in str(default_cache())
    monkeypatch.setenv("DENTBENCH_CACHE", "~/cache")
    assert default_cache() == Path("~/cache")


@pytest.mark.parametrize("columns", ["0", "-3", "wide", ""])
def test_a_terminal_without_a_width(
    dentbench: Run, results: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = dentbench("report", "--results", str(results))
    assert code == 0 and "digits-robust" in out, err


def test_json_has_no_json_inside_and_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    json_output.clear()
    for number in (1, 2):
        json_output.add(records=[json_output.of_record(record(number))], verdicts=[])
    json_output.deliver()
    actual = json.loads(capsys.readouterr().out)
    first, second = actual["records"]
    assert first["key"] != second["key"] and actual["verdicts"] == []
    for value in first.values():
        assert not str(value if isinstance(value, str) else "").startswith(("{", "[")), value
    assert isinstance(first["by_protocol"], dict)
    json_output.deliver()
    assert capsys.readouterr().out == ""


def command(shell: str, results: Path) -> subprocess.CompletedProcess[str]:
    line = f"{sys.executable} -m dentbench report --results {results} --format csv {shell}"
    return subprocess.run(
        line,
        shell=True,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_standard_output_is_told(results: Path) -> None:
    done = command("> /dev/full", results)
    assert done.returncode == 2 and "No space left on device" in done.stderr
    assert done.stderr.startswith("dentbench: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_closed_standard_output_is_told(results: Path) -> None:
    before = (results / "results.csv").read_bytes()
    done = command(">&-", results)
    assert "Traceback" not in done.stderr and "standard output is closed" in done.stderr
    assert done.returncode == 0 and (results / "results.csv").read_bytes() == before


def test_a_results_file_that_takes_no_record_stops_the_run_first(
    dentbench: Run, tmp_path: Path
) -> None:
    (tmp_path / "r" / "results.csv").mkdir(parents=True)
    code, _, said = dentbench("evaluate", "--examples", "2", "--mode", "static", "--results", "r")
    assert code == 2 and "cannot write r/results.csv: it is a folder, not a file" in said
    assert not (tmp_path / "r" / "runs").exists()  # not one image was attacked


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate --results FILE -q", "cannot be written (a file is there, not a folder)"),
        ("evaluate --results FILE/in -q", "(a part of the path is a file, not a folder)"),
        ("report --results FILE", "is a file, and no results folder"),
        ("report --results LONG", "the name is too long"),
        ("judge FILE/points.npz", "cannot be read (a part of the path is a file"),
        ("evaluate --data LONG.npz", "cannot be used: the name is too long; name another file"),
        ("evaluate --config LONG", "cannot be read: the name is too long"),
    ],
)
def test_a_path_that_cannot_be_used_is_refused_in_words(
    dentbench: Run, tmp_path: Path, line: str, words: str
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    code, _, said = dentbench(*line.replace("FILE", str(file)).replace("LONG", 300 * "n").split())
    assert code == 2 and words in said and "Errno" not in said
    assert said.count("\n") == 1 and file.read_text() == ""
