"""Faults of the command line, refused before anything runs, and records addressed again."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dentbench.cli import surroundings
from dentbench.errors import SpecError, WorkerError
from dentbench.evaluation.workers import process_pool
from dentbench.identity.user_code import load
from dentbench.records.outcome import Record
from dentbench.records.results_csv import read
from dentbench.report import commands
from dentbench.study.study import Request
from dentbench.study.table1 import check as check_table1
from tests.helpers import Run

NET = """
import torch
from torch import nn

class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x):
        import its_helper  # late: when it is asked for the first time
        return self.layer(x.flatten(1)) * its_helper.SCALE

def make():
    torch.manual_seed(0)
    return Late().eval()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, as the installed command sees it: not on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [item for item in sys.path if item not in ("", str(tmp_path))])
    (tmp_path / "own_net_of_a_user.py").write_text(NET)
    (tmp_path / "its_helper.py").write_text("SCALE = 2.0\n")
    return tmp_path


def test_a_worker_loads_a_model_of_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, _ = load("own_net_of_a_user:make")
    blueprint = pickle.dumps((make(), None, None))
    del sys.modules["own_net_of_a_user"]  # another process has not imported it
    made: list[Any] = []
    workers = "dentbench.evaluation.workers"
    monkeypatch.setattr(f"{workers}.worker.Worker", lambda _: None)
    monkeypatch.setattr(f"{workers}.prepared_model.PreparedModel", lambda *x: made.append(x))
    monkeypatch.setattr(process_pool, "_workers", {})
    process_pool.worker_of("", blueprint, "cpu", None)
    assert type(made[0][0]).__name__ == "Late" and str(folder) not in sys.path


def test_what_a_worker_cannot_load_is_named_and_no_memory_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*parts: object) -> None:
        raise ModuleNotFoundError("No module named 'own_net'")

    monkeypatch.setattr(process_pool, "worker_of", missing)
    monkeypatch.setattr(process_pool, "_refused", [])
    monkeypatch.setattr(process_pool, "_end_with_parent", lambda: None)
    monkeypatch.setattr(process_pool.signal, "signal", lambda *parts: None)
    monkeypatch.setattr(sys, "stdout", sys.stdout)

    class Numbers:
        def get(self) -> tuple[int, str]:
            return 0, "cpu"

    class Blueprint:
        raw = b""

    process_pool._begin(Blueprint(), Numbers(), None, [None], dict(os.environ))
    with pytest.raises(WorkerError, match=r"No module named 'own_net'.*--workers 1"):
        process_pool._carry_out(None)  # type: ignore[arg-type]


def test_a_late_import_finds_the_working_folder(folder: Path) -> None:
    with surroundings.working_folder_last():
        assert sys.path[-1] == str(folder)
    assert str(folder) not in sys.path


def test_a_command_leaves_the_callers_path_as_it_was(
    dentbench: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = [str(tmp_path), *sys.path]
    monkeypatch.setattr(sys, "path", [*path])
    assert dentbench("report")[0] in (0, 2)
    assert sys.path == path


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", ""], "option --config has an empty value"),
        (["--config="], "option --config has an empty value"),
        (["--results", ""], "option --results has an empty value"),
        (["--results="], "option --results has an empty value"),
        (["--config", "--quiet"], "option --config has no value: --quiet"),
        (["--results", "--quiet"], "option --results has no value: --quiet"),
        (["--config"], "--config"),
    ],
)
def test_an_empty_value_is_no_folder(dentbench: Run, arguments: list[str], words: str) -> None:
    code, _, err = dentbench("evaluate", *arguments)
    assert code == 2 and words in err and "Traceback" not in err and "file . is" not in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps-grid", "0..6"], "--steps-grid given"),
        (["--eps-grid", "0..8/255"], "--eps-grid given"),
        (["--steps", "3"], "--steps given"),
        (["--defense", "tent"], "--defense given"),
        (["--data", "cifar10-c", "--corruption", "fog"], "--corruption given"),
        (["--attack", "none"], "there is no attack"),
    ],
)
def test_table_1_refuses_what_it_would_ignore(
    dentbench: Run, options: list[str], words: str
) -> None:
    code, _, err = dentbench("evaluate", "--table", "1", *options)
    assert code == 2 and words in err and not dentbench.results.exists()


def test_table_1_takes_its_own_request() -> None:
    check_table1(1, [], Request(models=["Carmon2019"]))
    with pytest.raises(SpecError, match="ablate table 2"):
        check_table1(2, [], Request(models=[]))


# --- a record repeated ----------------------------------------------------------------------------

DATA = """
import numpy as np, torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
                         nn.Linear(144, 10)).eval()

def write():
    x = np.random.default_rng(0).random((8, 3, 8, 8), dtype=np.float32)
    with torch.no_grad():
        y = make()((torch.from_numpy(x) - 0.5) / 0.25).argmax(1).numpy()
    np.savez("own_data.npz", images=x, labels=y)
    torch.save(make().state_dict(), "weights.pt")
"""


@pytest.fixture
def recorded(dentbench: Run, tmp_path: Path) -> list[Record]:
    """The records of a checkpoint, with its arch and its normalization, on a file."""
    (tmp_path / "own_nets_and_data.py").write_text(DATA)
    load("own_nets_and_data:write")[0]()
    code, _, err = dentbench(
        *("evaluate", "--model", "./weights.pt", "--arch", "own_nets_and_data:make"),
        *("--normalize", "0.5,0.5,0.5", "0.25,0.25,0.25", "--data", "own_data.npz"),
        *("--eps", "4/255", "--attack", "apgd-ce", "--iterations", "1", "--steps", "1"),
        *("--protocol", "published", "-q"),
    )
    assert code == 0, err
    return read(dentbench.results)


def test_a_record_is_repeated_whole_or_refused_before_it_runs(
    dentbench: Run, recorded: list[Record], tmp_path: Path
) -> None:
    static, dent = recorded
    options = commands.options(dent)
    for words in (
        ["--model", "./weights.pt"],
        ["--arch", "own_nets_and_data:make"],
        ["--normalize", "0.5,0.5,0.5", "0.25,0.25,0.25"],
        ["--data", "own_data.npz"],
    ):
        at = options.index(words[0])
        assert options[at : at + len(words)] == words
    code, _, err = dentbench(
        "evaluate", "--from-record", dent.key[:7], "--results", "results", "-q"
    )
    assert (code, len(read(dentbench.results))) == (0, 2), err

    before = (dentbench.results / "results.csv").read_bytes()
    code, _, err = dentbench("evaluate", "--from-record", dent.key, "--seed", "5", "-q")
    assert code == 2 and "seed is 5, not 0" in err and "Nothing was run" in err
    assert (dentbench.results / "results.csv").read_bytes() == before
    code, _, err = dentbench(
        *("evaluate", "--from-record", f"results/{static.key}", "--normalize", "0.5", "0.5"), "-q"
    )
    assert code == 2
    assert (dentbench.results / "results.csv").read_bytes() == before


def test_a_record_of_a_titled_defense_is_found_again(recorded: list[Record]) -> None:
    own = replace(
        recorded[1], mode="other", defense="mine:make", defense_title="ours", defense_settings="{}"
    )
    options = commands.options(own)
    assert options[options.index("--defense") + 1] == "ours=mine:make"
