"""Standard output of ``--json`` is one JSON document, however a command ends."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from dentbench.cli import json_output, surroundings
from dentbench.errors import ModelError
from dentbench.records import results_csv
from tests.helpers import Run, record

REFUSED = {
    "evaluate --exmples 3": "option --exmples is unknown",
    "evaluate --examples x": "--examples is 'x'",
    "evaluate --model no-such-model": "unknown model 'no-such-model'",
    "evaluate --config gone.toml": "config file gone.toml is not there",
    "ablate --blur static --sigma -1": "sigma is -1.0",
    "judge gone.npz": "gone.npz",
    "board --study gone.toml": "config file gone.toml is not there",
    "show zz": "no record in results has the key 'zz'",
    "list nothing-like-it": "no record in results has nothing-like-it",
    "show latest --results gone": "there is no results folder gone",
    "doctor --nothing": "option --nothing is unknown",
    "fetch": "nothing is named",
    "fetch Wong2020 --offline": "offline mode allows no connection",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_refusal_is_a_document(dentbench: Run, tmp_path: Path, line: str) -> None:
    results_csv.append(tmp_path / "results", record(1))
    code, out, err = dentbench(*line.split(), "--json", *(["--cache", "c"] * ("fetch" in line)))
    assert code == 2 and json.loads(out).keys() == {"error"}
    assert REFUSED[line] in json.loads(out)["error"] and json.loads(out)["error"] in err
    assert dentbench(*line.split())[1] == ""


@pytest.mark.parametrize(
    "error", [ModelError("no gradient"), KeyboardInterrupt(), RuntimeError("a fault of ours")]
)
def test_what_was_finished_before_an_error_is_in_the_document(
    capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    with pytest.raises(type(error)), surroundings.written_out(["evaluate", "--json"]):
        json_output.add(records=[1])
        raise error
    actual = json.loads(capsys.readouterr().out)
    assert actual["records"] == [1] and (str(error) or "stopped") in actual["error"]


def test_a_command_that_has_printed_its_document_prints_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ModelError), surroundings.written_out(["fetch", "--json"]):
        json_output.print_document([{"id": "a"}])
        raise ModelError("one of two failed")
    assert json.loads(capsys.readouterr().out) == [{"id": "a"}]


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    json_output.print_document({"p": [1.5, math.inf], "q": {"r": math.nan}})
    assert json.loads(capsys.readouterr().out) == {"p": [1.5, None], "q": {"r": None}}


def test_every_card_that_fails_is_in_the_list(dentbench: Run) -> None:
    code, out, _ = dentbench("fetch", "Wong2020", "digits", "--offline", "--json", "--cache", "c")
    actual = {card["id"]: card for card in json.loads(out)}
    assert code == 2 and "offline mode" in actual["Wong2020Fast"]["error"]
    assert "error" not in actual["digits"]


def test_what_is_removed_is_a_document(dentbench: Run) -> None:
    code, out, _ = dentbench("fetch", "Wong2020", "--remove", "--json", "--cache", "c")
    assert code == 0 and json.loads(out) == {"removed": {"Wong2020Fast": 0}}


def test_a_dry_run_is_a_document_of_what_is_left_in_the_results_folder(dentbench: Run) -> None:
    asked = ("evaluate", "--examples", "4", "--mode", "static")
    short = ("--attack", "apgd-ce", "--iterations", "1", "--progress", "none")

    def estimates(*more: str) -> list[dict[str, Any]]:
        code, out, _ = dentbench(*asked, *more, "--dry-run", "--json")
        assert code == 0
        parts: list[dict[str, Any]] = json.loads(out)["estimates"]
        return parts

    parts = estimates()
    assert [part["stage"] for part in parts] == ["natural", "published"]
    assert {part["eps"] for part in parts} == {"0.15"} and parts[1]["forwards"] > 4_000
    assert dentbench(*asked, *short, "--results", "r")[0] == 0
    assert {part["images"] for part in estimates(*short, "--results", "r")} == {0}
    assert {part["images"] for part in estimates(*short)} == {4}
