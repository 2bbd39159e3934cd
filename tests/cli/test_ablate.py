"""``dentbench ablate`` and what ``evaluate`` has with it: Table 2, grids, Table 1, orders."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dentbench.cli import app

Command = Callable[..., tuple[int, str, str]]
SHORT = (
    *("--attack", "apgd-ce", "--iterations", "2", "--protocol", "transfer"),
    *("--examples", "4", "--batch-size", "4"),
)


@pytest.fixture
def dentbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run ``dentbench`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dentbench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return run


def rows() -> list[dict[str, str]]:
    with Path("results/results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_without_options_it_is_table2(dentbench: Command) -> None:
    code, out, _ = dentbench("ablate", *SHORT)
    assert code == 0
    actual = rows()
    assert len(actual) == 12 and len({row["key"] for row in actual}) == 12
    assert {(row["norm"], row["model"]) for row in actual} == {
        ("Linf", "digits-nominal"),
        ("L2", "digits-nominal"),
    }
    described = [
        (row["delta"], row["blur"], row["steps"]) for row in actual if row["norm"] == "Linf"
    ]
    assert described == [
        ("", "", ""),
        ("affine", "none", "1"),
        ("none", "static", "0"),
        ("affine", "static", "1"),
        ("affine", "static", "10"),
        ("affine", "dynamic", "10"),
    ]
    for words in (
        "Delta ✓, Sigma dynamic, step 10",
        "Linf 0.15",
        "L2 0.7",
        "published [",
        "26.1x",
    ):
        assert words in out
    naturals = {(row["blur"], row["steps"]): set() for row in actual}
    for row in actual:
        naturals[row["blur"], row["steps"]].add((row["natural_correct"], row["time_ratio"]))
    assert all(len(values) == 1 for values in naturals.values())  # one pass and one clock for both
    assert all(row["time_ratio"] for row in actual if row["mode"] == "batch")
    before = Path("results/results.csv").read_bytes()
    files = {path: path.stat().st_mtime_ns for path in Path("results/runs").rglob("*.*")}
    code, again, err = dentbench("ablate", *SHORT)
    assert (code, again, err) == (0, out, "")
    assert Path("results/results.csv").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in Path("results/runs").rglob("*.*")} == files


def test_the_blur_restricts_and_the_threat_is_named(dentbench: Command) -> None:
    code, out, _ = dentbench("ablate", *SHORT, "--blur", "dynamic", "--threat", "L2:0.5")
    assert code == 0
    assert [(row["mode"], row["blur"]) for row in rows()] == [("static", ""), ("batch", "dynamic")]
    assert "L2 0.5" in out and "step 1\n" not in out and "Sigma static" not in out


def test_a_grid_of_settings(dentbench: Command) -> None:
    grid = ("--blur", "none", "static", "--sigma", "0.5", "--steps", "0", "1", "--set", "beta1=0.5")
    code, out, _ = dentbench("ablate", *SHORT, *grid, "--norm", "Linf", "--eps", "0.1")
    assert code == 0
    assert [(row["blur"], row["steps"], row["beta1"]) for row in rows()[1:]] == [
        ("static", "0", "0.99"),
        ("none", "1", "0.5"),
        ("static", "1", "0.5"),
    ]
    assert (
        "settings sigma 0.5, beta1 0.5" in out and "Linf 0.1" in out and "\npublished  " not in out
    )
    key = next(row["key"] for row in rows() if (row["blur"], row["steps"]) == ("none", "1"))
    (stored,) = Path("results/runs", key).glob("**/transfer/*.npz")
    stored.unlink()
    words = ("ablate", *SHORT, *grid, "--norm", "Linf", "--eps", "0.1", "--dry-run")
    code, out, _ = dentbench(*words, "--json")
    left = [part for part in json.loads(out)["estimates"] if part["images"]]
    assert [(part["defense"], part["stage"]) for part in left] == [
        ("batch, 1 step, beta1 0.5", "transfer")
    ]
    code, out, _ = dentbench(*words)
    counts = f"{left[0]['forwards']} +{left[0]['backwards']}"
    assert len(re.findall(rf"(?m)^(transfer +4|total) +{counts} ", out)) == 2


def test_refusals(dentbench: Command) -> None:
    for arguments, words in (
        (("--blur", "dynamic", "--steps", "0"), "sigma would never move"),
        (("--blur", "static", "--sigma", "-1"), "sigma is -1.0"),
        (("--statistics", "mix:2"), "a number from 0 to 1"),
        (("--optimizer", "sgd", "--lr", "0"), "lr is 0.0"),
        (("--threat", "Linf"), "write NORM:EPS"),
        (("--threat", "Linf:1", "--eps", "1"), "choose one way"),
        (("--set", "beta9=1"), "one of beta1, beta2"),
        (("--order", "sorted"), "label-windows:256"),
    ):
        code, out, err = dentbench("ablate", *arguments)
        assert (code, out) == (2, "") and words in err, err
    for arguments, words in (
        (("--table", "2"), "dentbench ablate"),
        (("--table", "1", "--lr", "0.1", "--mode", "batch"), "--mode, --lr given"),
        (("--set", "beta1=1", "beta1=0"), "more than once"),
        (("--mode", "static", "--blur", "static"), "blur given for mode static"),
    ):
        code, out, err = dentbench("evaluate", *arguments)
        assert (code, out) == (2, "") and words in err, err


def test_table1_runs_both_modes_and_resumes(dentbench: Command) -> None:
    command = ("evaluate", "--table", "1", "--model", "digits-robust", *SHORT)
    code, out, _ = dentbench(*command)
    assert code == 0
    assert [(row["mode"], row["steps"]) for row in rows()] == [
        ("static", ""),
        ("batch", "30"),
        ("instance", "6"),
    ]
    assert "batch-wise, 30 steps" in out and "instance-wise, 6 steps" in out
    assert "not CIFAR-10 but UCI digits" in out
    assert dentbench(*command) == (0, out, "")
    code, out, _ = dentbench(*command, "--json")
    assert [item["model"] for item in json.loads(out)["verdicts"]] == ["digits-robust"] * 2


def test_every_setting_reaches_the_record(dentbench: Command) -> None:
    given = {
        "delta": "affine",
        "blur": "dynamic",
        "sigma": "0.5",
        "sigma_lr": "0.02",
        "padding": "reflect",
        "statistics": "mix:0.25",
        "optimizer": "sgd",
        "loss": "entropy",
        "steps": "1",
        "lr": "0.03",
        "mode": "batch",
    }
    options = [x for name, value in given.items() for x in (f"--{name.replace('_', '-')}", value)]
    settings = {
        "momentum": "0.5",
        "nesterov": "false",
        "gamma_lr": "0.01",
        "optimizer_eps": "1e-06",
    }
    sets = [f"{name}={value}" for name, value in settings.items()]
    assert dentbench("evaluate", *SHORT, *options, "--set", *sets)[0] == 0
    row = rows()[1]
    assert (row["iterations"], row["attack_label"]) == (
        "2",
        "APGD-CE with iterations 2 (not AutoAttack)",
    )
    for name, value in {**given, **settings}.items():
        assert row[name] == value


def test_diagnostics_and_the_order_are_told(dentbench: Command) -> None:
    order = ("--order", "label-windows:4", "--diagnostics", "--steps", "1")
    code, out, _ = dentbench("evaluate", *SHORT, *order, "--batch-size", "2")
    assert code == 0
    for words in (
        "Order: label-windows:4. Natural in the given order: static",
        "Effect of the adaptation",
    ):
        assert words in out
    static, dent = rows()
    assert static["order"] == dent["order"] == "label-windows:4"
    assert static["natural_given_correct"] == static["natural_correct"]
    actual = json.loads(dent["diagnostics"])["natural"]
    assert actual["images"] == 4 and 0 <= actual["label_balance"] <= 1


def test_a_model_of_ones_own_gets_the_papers_threats(dentbench: Command) -> None:
    generator = np.random.default_rng(0)
    np.savez("toy.npz", images=generator.random((6, 3, 8, 8), "f4"), labels=np.arange(6))
    Path("toy.py").write_text("from tests.reference import tiny_network\n")
    model = ("--model", "tests.reference:tiny_network", "--data", "toy.npz")
    code, out, _ = dentbench("ablate", *SHORT, *model, "--blur", "none")
    assert code == 0 and "Linf 1.5/255" in out and "L2 0.2" in out
