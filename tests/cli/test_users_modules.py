"""Modules of a user that end the process, print, parse arguments or raise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import Run

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
                                  nn.Linear(144, 10))
    def forward(self, x):
        during()
        return self.body(x)
def during():
    pass
def make(*network):
    torch.manual_seed(0)
    return Net().eval()
"""
MODULES = {
    "zero": "import sys\nprint('nothing to do')\nsys.exit(0)\n",
    "text": "import sys\ndef make(*network):\n    sys.exit('weights are missing')\n",
    "parses": "import argparse\np = argparse.ArgumentParser()\nargs = p.parse_args()\n" + NET,
    "raises": "def make(*network):\n    raise KeyError('layer4')\n",
    "late": "import sys" + NET + "def during():\n    sys.exit(0)\n",
    "prints": "print('at import')" + NET + "def during():\n    print('in forward')\n",
}
SHORT = ("--examples", "4", "--attack", "apgd-ce", "--iterations", "1", "--eps", "1/255")
QUIET = ("--steps", "1", "--progress", "none", "--force")


@pytest.fixture
def command(dentbench: Run, tmp_path: Path) -> Run:
    for name, text in MODULES.items():
        (tmp_path / f"ended_{name}.py").write_text(text)
    return dentbench


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zero", "cannot be made"),
        ("text", "weights are missing"),
        ("parses", "cannot be made"),
        ("raises", "layer4"),
        ("late", "sys.exit(0)"),
    ],
)
@pytest.mark.parametrize("option", ["--model", "--defense"])
def test_it_ends_in_words_and_code_2(command: Run, name: str, words: str, option: str) -> None:
    code, out, err = command(
        *("evaluate", option, f"ended_{name}:make", *SHORT, "--require-gain", "5"),
        *("--data", "digits", "--quiet", "--force"),
    )
    assert (code, out) == (2, "") and words in err and "Traceback" not in err
    assert not (command.results / "results.csv").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ended_gone", "there is no module ended_gone in the working folder or installed; a file"),
        ("ended_wants", "No module named 'a_library_of_others'"),
        ("ended_wrong", "invalid syntax (ended_wrong.py, line 1)"),
        ("ended_wrong.py", "invalid syntax (ended_wrong.py, line 1)"),
        ("gone/net.py", "there is no file gone/net.py"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(
    command: Run, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "ended_wants.py").write_text("import a_library_of_others\n")
    (tmp_path / "ended_wrong.py").write_text("def make(:\n    pass\n")
    code, out, err = command("evaluate", "--model", f"{name}:make", "--data", "digits", *SHORT)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_what_it_prints_is_not_in_the_json(command: Run) -> None:
    code, out, err = command(
        *("evaluate", "--model", "ended_prints:make", "--data", "digits", *SHORT, *QUIET, "--json")
    )
    assert code == 0 and len(json.loads(out)["records"]) == 2
    assert "at import" in err and "in forward" in err


def test_traceback_shows_where(command: Run) -> None:
    asked = ("--model", "ended_raises:make", "--data", "digits", *SHORT)
    code, _, err = command("evaluate", "--traceback", *asked)
    assert code == 2 and "ended_raises.py" in err and "KeyError: 'layer4'" in err


OWN_ATTACK = "def fails(classify, images, labels, threat):\n    return\\\n        images.nothing\n"


@pytest.mark.parametrize(
    ("option", "named", "line"),
    [
        ("--model", "ended_raises:make", "ended_raises.py, line 2"),
        ("--defense", "ended_raises:make", "ended_raises.py, line 2"),
        ("--model", "at_import:make", "at_import.py, line 2"),
        ("--attack", "own_attack:fails", "own_attack.py, line 3"),
    ],
)
def test_the_line_of_the_users_that_raised_is_told(
    command: Run, tmp_path: Path, option: str, named: str, line: str
) -> None:
    (tmp_path / "at_import.py").write_text("import os\nimport nothing_of_this_name\n")
    (tmp_path / "own_attack.py").write_text(OWN_ATTACK)
    attack = () if option == "--attack" else SHORT[2:6]
    code, _, err = command(
        *("evaluate", option, named, *SHORT[:2], *attack, *SHORT[6:], "--data", "digits", "--force")
    )
    assert code == 2 and "Traceback" not in err
    assert err.endswith(f"; raised by {line} (--traceback shows every call)\n"), err


def test_an_error_of_no_code_of_the_users_tells_no_line(command: Run) -> None:
    for model in ("nothing:make", "ended_zero.py", "math:nothing"):
        code, _, err = command("evaluate", "--model", model, *SHORT)
        assert code == 2 and "raised by" not in err, err
