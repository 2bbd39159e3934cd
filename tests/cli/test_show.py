"""``show`` and ``list``: one record whole, all in a line each, by short keys."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from dentbench.attacks.checks import Check, to_json
from dentbench.cli import keys, showing
from dentbench.errors import StoreError
from dentbench.records import results_csv
from dentbench.report.commands import command
from tests.helpers import Run, record
from tests.report.fixed_records import DENT, make
from tests.report.verdict_records import SOUND


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A results folder with a static and a defended record, as the working folder's own."""
    folder = tmp_path / "results"
    odd = [Check("planted", False, 0.5, "half of the planted points are missed")]
    own = {**DENT, **SOUND, "gained": 40, "lost": 2, "n": 512, "count": 512, "separable": True}
    static = make(1, 500, {"published": 340}, n=512, count=512, order="given")
    own |= {"checks": to_json(odd), "order": "given"}
    dent = make(2, 500, {"published": 420, "transfer": 378}, **own)
    for item, key in ((static, "aa11223344556677"), (dent, "ab99887766554433")):
        results_csv.append(folder, replace(item, key=key))
    return folder


def test_show_says_everything(dentbench: Run, kept: Path) -> None:
    code, out, _ = dentbench("show", "ab")
    text = " ".join(out.split())
    assert code == 0
    for words in (
        "Record ab99887766554433",
        "Undecided: dent's published 82.0% (420/512) falls to 73.8% (378/512) under transfer",
        "Doubt: the check planted failed: half of the planted points are missed",
        "Next: ",
        "planted FAILED",
        "2202.13711",
        "model_sha256",
        "The command that repeats it: dentbench evaluate --model Carmon2019Unlabeled",
    ):
        assert words in text, words


@pytest.mark.parametrize("key", ["latest", "ab9", "AB9", "results/ab", "ab99887766554433"])
def test_any_beginning_of_a_key_will_do(dentbench: Run, kept: Path, key: str) -> None:
    code, out, _ = dentbench("show", key, "--json")
    actual = json.loads(out)
    assert code == 0 and actual["record"]["key"] == "ab99887766554433"
    assert actual["record"]["by_protocol"] == {"published": 420, "transfer": 378}
    assert actual["static_key"] == "aa11223344556677" and actual["verdict"]["kind"] == "undecided"
    assert shlex.split(actual["command"])[:2] == ["dentbench", "evaluate"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("a", "several records .* begin with 'a'"),
        ("ff", "no record .* the newest are ab9988"),
        ("lates", "has the key 'lates'; did you mean latest.*; the newest are ab9988"),
    ],
)
def test_a_key_that_names_none_or_several(kept: Path, key: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        keys.find(kept, key)


@pytest.mark.parametrize("line", ["show latest", "show ab", "list", "list digits"])
def test_an_empty_folder_says_how_to_start(dentbench: Run, tmp_path: Path, line: str) -> None:
    (tmp_path / "results").mkdir()
    code, _, err = dentbench(*line.split())
    assert code == 2 and "no records in results yet; run dentbench evaluate first" in err


def test_of_many_keys_that_begin_alike_a_few_are_named(tmp_path: Path) -> None:
    for number in range(9):
        results_csv.append(tmp_path, record(number, key=f"ab{number}"))
    with pytest.raises(StoreError, match="with 'ab': ab8, ab7, ab6, ab5, ab4 and 4 more; give"):
        keys.find(tmp_path, "ab")


def test_list_is_a_line_each_and_filters(
    dentbench: Run, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = dentbench("list")
    assert code == 0 and "aa112233" in out and "ab998877" in out and "undecided" in out
    (line,) = (line for line in out.splitlines() if line.startswith("ab998877"))
    assert "instance-wise dent, 6 steps" in line  # a pipe has room, and no name is folded
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, dentbench("list")[1].splitlines())) <= 80
    monkeypatch.delenv("COLUMNS")
    assert "aa112233" not in dentbench("list", "undecided")[1]
    assert len(json.loads(dentbench("list", "--json")[1])) == 2
    code, _, err = dentbench("list", "nothing-like-it")
    assert code == 2 and "no record in results has nothing-like-it" in err


def test_rows_that_would_look_alike_say_what_tells_them_apart(
    dentbench: Run, tmp_path: Path
) -> None:
    runs = ({}, {"seed": 2}, {}, {"seed": 3, "attack": "quick", "lr": None}, {"model": "other"})
    for number, changes in enumerate(runs):
        results_csv.append(tmp_path / "results", record(number, **changes))
    titles = [line.partition("0.15")[2][:60] for line in dentbench("list")[1].splitlines()[-5:]]
    said = [" ".join(title.partition("  6")[0].split()) for title in titles]
    assert said == [
        "static model",
        "static model, seed 2",
        "static model",
        "static model, attack quick, seed 3",
        "static model",
    ]


def test_keys_are_completed_newest_first(kept: Path) -> None:
    class Context:
        params = {"results": kept}

    actual = [key for key, _ in keys.complete(Context(), "")]
    assert actual == ["latest", "ab99887766554433", "aa11223344556677"]
    assert [key for key, _ in keys.complete(Context(), "aa")] == ["aa11223344556677"]


def test_the_command_of_a_static_record() -> None:
    static = make(1, 500, {"published": 340}, n=512, count=512)
    assert "--mode static" in command(static) and "--protocol" not in command(static)


def test_a_key_filters_by_its_beginning(kept: Path) -> None:
    from dentbench.report.conditions import where

    assert [record.key for record in where(results_csv.read(kept), ["key=ab9"])] == [
        "ab99887766554433"
    ]


def test_an_ablation_says_the_verdict_on_every_row(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the failed checks of both, once, and the next command of each that is not final."""
    static, dent = results_csv.read(kept)
    odd = to_json([Check("logits", False, 1.0, "answers are probabilities")])
    study: Any = SimpleNamespace(notes=(), attacks=(None,))
    records = [replace(static, checks=odd), dent, replace(dent, key="ac" + dent.key[2:], lr=0.02)]
    showing._verdicts([(study, records)], kept, Console(width=200))
    out = capsys.readouterr().out
    assert out.count("Undecided: ") == 2 and out.count("\nNext: ") == 2
    assert "6 steps, lr 0.02. Undecided" in out
    assert out.count("Check of the static model logits failed") == 1
    assert out.count("Check planted failed") == 2
