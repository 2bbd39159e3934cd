"""Runs without an attack, of corruption sets above all: records, table, and refusals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

import dentbench
from dentbench.adapt.dent import Dent
from dentbench.defenses.norm import norm
from dentbench.defenses.tent import tent
from dentbench.errors import SpecError
from dentbench.records.results_csv import read
from dentbench.spec.evaluation import AttackSpec, DentSpec
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.models import load_model
from tests.helpers import Run

MODEL = "cifar10-resnet20-robust"
ROWS = 3
NAMES = ("fog", "gaussian_noise")


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """The command, in a folder with two small corruptions in Zenodo's layout."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "sets" / "CIFAR-10-C"
    folder.mkdir(parents=True)
    for name in NAMES:
        array = rng.integers(0, 256, (5 * ROWS, 32, 32, 3), dtype=np.uint8)
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", np.tile(np.arange(ROWS), 5))
    yield Run(monkeypatch, capsys, tmp_path)


SHORT = ["evaluate", "--model", MODEL, "--dataset", "cifar10-c", "--data-dir", "sets"]
SHORT += ["--data-name", "small", "--batch-size", "2"]


def right(
    network: torch.nn.Module, corruption: str, severity: int, *, defended: bool
) -> dict[str, int]:
    """Images right under each defense, counted here: batches of two, then a single image."""
    array = np.load(f"sets/CIFAR-10-C/{corruption}.npy")[(severity - 1) * ROWS : severity * ROWS]
    x = torch.from_numpy(array).movedim(3, 1) / 255
    y = torch.arange(ROWS)
    defenses = {
        "none": network,
        "norm": norm(network),
        "tent": tent(network),
        "dent": Dent(network, DentSpec(steps=2)),
    }
    return {
        name: sum(
            int((defense(a).argmax(1) == b).sum())
            for a, b in zip(x.split(2), y.split(2), strict=True)
        )
        for name, defense in defenses.items()
        if defended or name == "none"
    }


def test_corruptions_under_static_norm_tent_and_dent(command: Run) -> None:
    corruptions = [part for name in NAMES for part in ("--corruption", name)]
    code, _, err = command(*SHORT, *corruptions, "--severity", "2", "5", "--mode", "static")
    assert code == 0, err
    assert len(read(command.results)) == 2 * 2
    code, out, err = command(*SHORT, *corruptions, "--severity", "5", "--steps", "2")
    assert code == 0, err
    network = load_model(MODEL).network
    records = read(command.results)
    assert len(records) == 2 * 2 + 2 * 3
    counted = {
        f"small {name}, severity {severity}": right(network, name, severity, defended=severity == 5)
        for name in NAMES
        for severity in (2, 5)
    }
    for record in records:
        expected = counted[record.dataset]
        assert record.natural_correct == record.robust_correct == expected[record.defense]
        assert (record.attack, record.eps, record.protocol) == ("none", "0", "")
        if record.mode != "static":
            gain = record.natural_correct - expected["none"]
            assert (record.gained or 0) - (record.lost or 0) == gain
    for words in ("Natural accuracy", "instance-wise", "tent", "mean of 2"):
        assert words in out
    code, again, _ = command("report", "--table", "natural")
    assert code == 0 and "gaussian_noise" in again and "mean of 2" in again
    assert command(*SHORT, *corruptions, "--severity", "5", "--steps", "2")[0] == 0
    assert len(read(command.results)) == len(records)


def test_a_corruptions_record_is_repeated(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {
        name: hashlib.md5((tmp_path / f"sets/CIFAR-10-C/{name}.npy").read_bytes()).hexdigest()
        for name in (*NAMES, "labels")
    }
    card = replace(DATASETS["cifar10-c"], corruptions=MappingProxyType(known))
    monkeypatch.setitem(DATASETS._values, "cifar10-c", card)
    run = [*SHORT[:-4], "--batch-size", "4", "--corruption", "fog", "--severity", "3"]
    assert command(*run, "--mode", "instance", "--defense", "dent")[0] == 0
    before = command.rows()
    key = before[-1]["key"]
    code, _, err = command("evaluate", "--from-record", key, "--data-dir", "sets")
    assert code == 0, err
    assert [row["key"] for row in command.rows()] == [row["key"] for row in before]


def test_the_mean_is_of_the_corruptions() -> None:
    from dentbench.report.tables.natural import natural
    from tests.report.fixed_records import make

    shares = {"fog": 50, "frost": 70, "snow": 90}
    records = [
        make(
            number,
            count,
            {"published": 0},
            dataset=f"CIFAR-10-C {name}, severity 3",
            attack="none",
            protocol="",
            by_protocol="{}",
            n=100,
        )
        for number, (name, count) in enumerate(shares.items())
    ]
    rows = [[cell.text for cell in row] for row in natural(records).rows]
    assert [row[4:] for row in rows] == [
        ["snow", "90.0% (90/100)"],  # in the catalogue's order
        ["frost", "70.0% (70/100)"],
        ["fog", "50.0% (50/100)"],
        ["mean of 3", "70.0%"],
    ]


def test_natural_accuracy_of_any_data_set(command: Run) -> None:
    more = ["--attack", "none", "--examples", "20", "--defense", "tent", "--json"]
    code, out, err = command("evaluate", *more)
    assert code == 0, err
    actual = json.loads(out)
    static, tented = actual["records"]
    assert actual["verdicts"] == []
    assert static["dataset"] == "UCI digits (test)" and static["by_protocol"] == {}
    assert tented["forwards"] == 20 * 2
    code, out, _ = command("report", "--table", "all")
    assert code == 0 and "no attack: natural accuracy alone" in out
    code, _, err = command("report", "--table", "1")  # it is of attacks
    assert code == 2 and "no results for table 1" in err
    assert command("report", "--table", "1", "--not-run")[0] == 0
    assert "20" not in {row["n"] for row in command.rows() if row["protocol"]}
    code, out, _ = command("evaluate", "--attack", "none", "--examples", "20", "--dry-run")
    assert code == 0 and "natural" in out and "published" not in out


def test_natural_accuracy_from_python(tmp_path: Path) -> None:
    network = load_model("digits-robust").network
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    attack = AttackSpec(name="none")
    assert (attack.norm, attack.eps) == ("Linf", Fraction(0))
    actual = dentbench.evaluate(network, x, y, attack=attack, results=tmp_path)
    static, dent = actual
    assert "Natural accuracy" in actual._repr_html_()
    assert (static.protocol, dent.protocol, dent.worst_protocol) == ("", "", "")
    with pytest.raises(SpecError, match="attack none has no iterations"):
        AttackSpec(name="none", iterations=3)


def test_what_makes_no_sense_is_told(command: Run) -> None:
    fog = ["--corruption", "fog"]
    mistakes = {
        (*SHORT, "--corruption", "frog"): "did you mean fog",
        (*SHORT, *fog, "--severity", "0"): "severity is 0; allowed: 1 to 5",
        (*SHORT, *fog, "--eps", "8/255"): "there is no attack, so --norm, --eps",
        (*SHORT, *fog, "--protocol", "bpda"): "there is no attack, so --protocol",
        (*SHORT, *fog, "--require-gain", "1"): "there is no attack",
        (*SHORT, "--corruption", "snow"): "snow.npy of CIFAR-10-C is not below sets",
        ("evaluate", *fog): "are for cifar10-c and cifar100-c",
        ("evaluate", "--data-dir", "sets", "--attack", "none"): "--data-dir is for imagenet",
        ("ablate", "--dataset", "cifar10-c"): "for natural accuracy alone",
        ("ablate", "--attack", "none"): "for natural accuracy alone",
    }
    for arguments, words in mistakes.items():
        code, out, err = command(*arguments)
        assert code == 2, (arguments, out, err)
        assert words in err and err.count("\n") == 1, (arguments, err)


def test_attacked_on_request(command: Run) -> None:
    """A corruption set can be attacked too, at the default threat model of its card."""
    attack = ["--attack", "apgd-ce", "--iterations", "1", "--mode", "static"]
    code, _, err = command(*SHORT, "--corruption", "fog", *attack, "--examples", "2")
    assert code == 0, err
    (row,) = command.rows()
    assert (row["attack"], row["norm"], row["eps"]) == ("apgd-ce", "Linf", "8/255")
    assert DATASETS["cifar10-c"].eps == "8/255"
