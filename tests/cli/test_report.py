"""``dentbench report``: formats, files, filters, clear errors, and a light start."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from dentbench.cli import report as command
from dentbench.errors import DentBenchError, SpecError, StoreError, UnknownNameError
from dentbench.records import csv_codec, results_csv, safe_files, sheet
from dentbench.records.samples import read_samples
from dentbench.report.formats import figures
from tests.helpers import ROOT, record

RUNNER = CliRunner()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    results_csv.append(folder, record(1))
    results_csv.append(folder, record(2, model="Carmon2019Unlabeled"))
    results_csv.append(
        folder, replace(record(1), robust_correct=300, by_protocol='{"published": 300}')
    )
    return folder


def run(*arguments: object) -> str:
    """Run the command and return its standard output; its errors are raised."""
    app = typer.Typer()
    app.command("report")(command.report)
    done = RUNNER.invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_markdown_is_the_default_in_a_pipe(results: Path) -> None:
    assert run("--results", results).startswith("**All records**\n\n")


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("terminal", "All records"),
        ("markdown", "**All"),
        ("latex", "% needs"),
        ("csv", "model,data set,"),
        ("json", '{\n "title"'),
        ("html", "<!DOCTYPE html>"),
    ],
)
def test_formats(results: Path, form: str, start: str) -> None:
    assert run("--results", results, "--format", form).startswith(start)


@pytest.mark.parametrize("table", ["1", "2", "readme", "all"])
def test_tables(results: Path, table: str) -> None:
    command = ("--results", results, "--table", table, "--format", "json")
    value = json.loads(run(*command, "--not-run"))
    assert value["rows"]
    if table != "all":  # nothing of the paper's was run
        with pytest.raises(StoreError, match="--not-run shows the published rows"):
            run(*command)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("t.md", "**"),
        ("t.tex", "% "),
        ("t.CSV", "model,"),
        ("t.json", "{"),
        ("t.html", "<!DOCTYPE html>"),
        ("t.txt", "All"),
        ("t", "**"),
    ],
)
def test_out_writes_a_file_of_its_suffix(results: Path, name: str, start: str) -> None:
    out = results / name
    assert "wrote" not in run("--results", results, "--out", out)
    assert out.read_text(encoding="utf-8").startswith(start)
    assert not list(results.glob(".*tmp"))


def test_standalone(results: Path) -> None:
    text = run("--results", results, "--format", "latex", "--standalone")
    assert text.startswith(r"\documentclass") and text.endswith("\\end{document}\n")
    assert run("--results", results, "--format", "html", "--standalone").startswith("<!DOCTYPE")
    for form in ("markdown", "terminal"):
        with pytest.raises(SpecError, match=f"needs format latex or html, not {form}"):
            run("--results", results, "--format", form, "--standalone")


def test_latest_and_all_rows(results: Path) -> None:
    latest = run("--results", results, "--format", "csv").splitlines()
    every = run("--results", results, "--format", "csv", "--all-rows").splitlines()
    assert (len(latest), len(every)) == (3, 4)
    assert "58.5938" in latest[2] and "67.7734" not in "".join(latest[2:])


@pytest.mark.parametrize("name", ["digits-robust", "DIGITS", "carmon2019"])
def test_model_by_name_or_beginning(results: Path, name: str) -> None:
    rows = run("--results", results, "--model", name, "--format", "csv").splitlines()[1:]
    assert len(rows) == 1 and rows[0].lower().startswith(name.lower())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--model", "Carmen2019"], UnknownNameError, "did you mean Carmon2019Unlabeled"),
        (["--model", "Ding2020"], StoreError, "there are no results of Ding2020 for table all"),
        (["--table", "protocols"], StoreError, "no results of a defense for table protocols"),
        (["--where", "mode"], SpecError, "write COLUMN=VALUE, such as mode=instance"),
        (["--where", "mde=static"], UnknownNameError, "did you mean mode"),
        (
            ["--where", "mode=batch"],
            StoreError,
            r"no record has mode=batch; there are: static \(2\)",
        ),
        (["--where", "eps=x"], SpecError, "eps is 'x'"),
        (["--where", "n>=many"], SpecError, "n is 'many'; write a number"),
        (["--where", "time>=soon"], SpecError, "write a time such as 2026-11-22"),
        (["--where", "model<=b"], SpecError, "model has no order; compare it by = or !="),
        (["--where", "n>1000"], StoreError, r"no record has n>1000; there are: 512 \(2\)"),
        (
            ["--where", "verdict=holds"],
            StoreError,
            "no record has verdict=holds: of the 2 here none has a verdict, .*; run dentbench ev",
        ),
        (["--where", "verdict=hold"], UnknownNameError, "unknown verdict 'hold'; did you mean ho"),
        (["--where", "verdict=No_Gain"], StoreError, "no record has verdict=no gain: of the 2"),
        (["--fragment"], SpecError, "--fragment is of format html, not markdown"),
        (["--cite", "--format", "csv"], SpecError, "--cite is of format latex, not csv"),
        (["--compare", "{results}", "{results}/x.csv"], StoreError, "no results file"),
        (["--out", "{results}/no/folder/t.md"], StoreError, "cannot write"),
        (["--samples", "s.xlsx"], SpecError, "ends in '.xlsx'; end it in .parquet or .csv"),
        (["--samples", "s"], SpecError, "has no ending; end it in .parquet or .csv"),
        (["--samples", "s.csv"], StoreError, "there are no outcomes of these records in"),
        (["--samples", "s.csv", "--compare", "a", "b"], SpecError, "leave out --compare"),
        (["--samples", "s.csv", "--out", "a.md"], SpecError, "file of its own; leave out --out"),
    ],
)
def test_errors(
    results: Path, arguments: list[str], error: type[DentBenchError], message: str
) -> None:
    with pytest.raises(error, match=message) as actual:
        run("--results", results, *(argument.format(results=results) for argument in arguments))
    assert "\n" not in str(actual.value) and actual.value.exit_code == 2


def test_many_figures_are_told_in_one_line(
    results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("a.pdf", "a.svg", "b.pdf", "captions.txt")
    monkeypatch.setattr(figures, "draw", lambda *given: [given[-1] / name for name in names])
    app = typer.Typer()
    app.command("report")(command.report)
    folder = tmp_path / "figures"
    done = RUNNER.invoke(app, ["--results", str(results), "--figures", str(folder)])
    assert done.stderr == f"wrote 3 files of charts, and {folder / 'captions.txt'} about them\n"


def test_where_keeps_the_records_of_a_value(results: Path) -> None:
    def models(*conditions: str) -> list[str]:
        options = [part for text in conditions for part in ("--where", text)]
        return [
            row["model"]
            for row in json.loads(run("--results", results, "--format", "json", *options))["rows"]
        ]

    both = ["Carmon2019Unlabeled", "digits-robust"]
    assert models("model=DIGITS-robust") == ["digits-robust"]
    assert models("model==DIGITS-robust") == ["digits-robust"]
    assert sorted(models("eps=0.150")) == both and sorted(models("eps=3/20")) == both
    assert models("robust-correct=300") == ["digits-robust"]
    assert models("mode=static", "model=Carmon2019Unlabeled") == ["Carmon2019Unlabeled"]
    assert sorted(models("model=digits-robust", "model=carmon2019unlabeled")) == both
    assert sorted(models("eps<=0.15", "eps>=0.15", "n>511", "n<=512", "time>=2026-11-01")) == both
    assert models("robust_correct<347") == models("model!=carmon2019unlabeled") == ["digits-robust"]
    assert sorted(models("steps=", "defense!=", "separable=True")) == both


def test_where_keeps_the_static_record_that_a_defended_one_needs(tmp_path: Path) -> None:
    defended = record(
        2,
        mode="instance",
        steps=6,
        defense="dent",
        gained=3,
        lost=2,
        robust_correct=348,
        by_protocol='{"published": 400, "transfer": 348}',
        protocol="published transfer",
    )
    results_csv.append(tmp_path, record(1))
    results_csv.append(tmp_path, defended)
    options = ("--results", tmp_path, "--where", "mode=instance")
    page = run(*options, "--format", "html")
    assert "static model has 67.8% (347/512)" in page
    rows = json.loads(run(*options, "--table", "protocols", "--format", "json"))["rows"]
    assert [row["protocol"] for row in rows] == [
        "static model",
        "published",
        "transfer",
        "worst case",
    ]


def test_compare(results: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    fewer = {"robust_correct": 200, "by_protocol": '{"published": 200}'}
    results_csv.append(other, replace(record(1), **fewer))
    actual = run("--compare", results, other / "results.csv", "--format", "json")
    value = json.loads(actual)
    (row,) = value["rows"]
    assert (row["cell"], row["before"]["count"], row["after"]["count"]) == ("published", 300, 200)
    assert value["caption"].startswith("1 of 2 cells of 1 runs changed")
    assert "Carmon2019Unlabeled" in " ".join(value["notes"])


def test_bibtex(results: Path) -> None:
    assert run("--bibtex").startswith("@article{wang2021fighting,")


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no results folder"):
        run("--results", tmp_path / "missing")
    with pytest.raises(StoreError, match=r"there are no results in .*; run dentbench evaluate"):
        run("--results", tmp_path)


def test_many_rows_load_no_torch(tmp_path: Path) -> None:
    rows = [csv_codec.to_row(record(number, model=f"m{number % 97}")) for number in range(1_000)]
    safe_files.write_atomic(tmp_path / "results.csv", sheet.lines_of([sheet.column_names(), *rows]))
    code = (
        "import sys, typer; from dentbench.cli.report import report; "
        "app = typer.Typer(); app.command()(report); "
        "app(standalone_mode=False); "
        "heavy = {'torch', 'matplotlib', 'filelock'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stderr.strip() == "[]" and len(done.stdout.splitlines()) > 1_000


def test_samples_of_the_records_chosen_go_into_a_file(tmp_path: Path) -> None:
    old = ROOT / "tests" / "golden" / "results-0.1"
    out = tmp_path / "samples.csv"
    run("--results", old, "--samples", out)
    every = pd.read_csv(out, dtype={"key": str})
    run("--results", old, "--samples", out, "--where", "mode=batch")
    chosen = pd.read_csv(out, dtype={"key": str})
    assert len(every) == len(read_samples(old)) > len(chosen) > 0
    assert chosen["key"].nunique() == 1 and set(chosen["defense"]) == {"dent"}


def test_samples_without_pyarrow_are_refused_in_words(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"needs pyarrow, which is not installed; pip install"):
        run("--results", results, "--samples", results / "s.parquet")


def test_importing_the_command_is_light() -> None:
    code = (
        "import sys; import dentbench.cli.report; "
        "print({'torch', 'pandas', 'numpy', 'rich', 'tabulate'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "set()"
