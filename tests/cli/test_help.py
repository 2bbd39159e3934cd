"""Help in panels, and options by the names that other tools give them."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from dentbench.cli import app, surroundings
from dentbench.cli.panels import EXPERT, PANELS
from dentbench.cli.words import understood
from dentbench.spec.attack_plans import ATTACKS
from tests.helpers import Run

COMMANDS = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]
LARGE = ("evaluate", "ablate", "judge")


def help_of(*words: str) -> str:
    done = CliRunner().invoke(app.app, [*words], terminal_width=80)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", LARGE)
def test_every_option_has_a_panel(command: str) -> None:
    known = {name for names in PANELS.values() for name in names}
    own = {param.opts[0] for param in COMMANDS[command].params if param.opts[0].startswith("--")}
    assert own - known == {"--help-all"}
    assert known >= EXPERT


def test_every_option_of_a_panel_is_there() -> None:
    there = {param.opts[0] for command in LARGE for param in COMMANDS[command].params}
    assert {name for names in PANELS.values() for name in names} <= there


@pytest.mark.parametrize("command", LARGE)
def test_common_options_come_first_and_the_others_on_request(command: str) -> None:
    short, whole = help_of(command, "--help"), help_of(command, "--help-all")
    places = [short.index(f"{title}:") for title in PANELS]
    assert places == sorted(places)
    assert "--model" in short and "--sigma-lr" not in short and "--sigma-lr" in whole
    assert f"more options: root {command} --help-all" in short or "--help-all" in short
    assert len(short.splitlines()) < 0.75 * len(whole.splitlines())
    for param in COMMANDS[command].params:
        assert param.opts[0] in whole or param.opts[0] == "points"
    assert max(map(len, whole.splitlines())) <= 80


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--n", "8"], ["--examples", "8"]),
        (["--limit=8"], ["--examples=8"]),
        (["--batch_size", "4"], ["--batch-size", "4"]),
        (["--output", "found"], ["--results", "found"]),
        (["--EPSILON", "0.1"], ["--eps", "0.1"]),
        (["--examples", "8"], ["--examples", "8"]),
        (["--where", "batch_size=4"], ["--where", "batch_size=4"]),
    ],
)
def test_other_names_are_understood(given: list[str], meant: list[str]) -> None:
    assert understood(["evaluate", *given], COMMANDS["evaluate"]) == ["evaluate", *meant]


def test_output_of_a_report_is_its_file() -> None:
    words = ["report", "--output", "table.tex"]
    assert understood(words, COMMANDS["report"]) == ["report", "--out", "table.tex"]


def test_a_format_by_itself_is_the_format_of_a_report() -> None:
    assert understood(["report", "--html"], COMMANDS["report"]) == ["report", "--format=html"]
    assert understood(["show", "--json"], COMMANDS["show"]) == ["show", "--json"]


def test_what_is_taken_is_said(dentbench: Run) -> None:
    code, _, err = dentbench("evaluate", "--n", "0", "--dry_run")
    assert code == 2 and "--n is called --examples here" in err and "examples is 0" in err


def test_an_option_given_twice_says_which_value_counts(dentbench: Run) -> None:
    twice = ("--eps", "8/255", "--examples=0", "--eps=4/255", "--examples", "0")
    code, _, err = dentbench("evaluate", *twice, "--dry-run")
    assert code == 2 and "--eps is given 2 times, and takes one value: the last, 4/255" in err
    assert "--examples is given" not in err, "both values are the same"


def test_autoattack_is_the_standard_one() -> None:
    for name in ("autoattack", "AutoAttack", "auto-attack", "AA"):
        assert ATTACKS.canonical(name) == "standard"


def test_the_first_help_loads_little() -> None:
    """Slow imports: torch, NumPy, pandas, rich's tables, records and package metadata."""
    code = (
        "import sys\nfrom dentbench.cli import app\nsys.argv = ['dentbench', '--help']\n"
        "try:\n    app.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'rich.table', 'rich.progress', 'tomllib',\n"
        "         'importlib.metadata', 'dentbench.records.outcome', 'dentbench.spec.evaluation'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_terminal_without_a_character_gets_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    surroundings.write_any_character()
    print("\u2713", end="", flush=True)
    assert stream.buffer.getvalue() == b"\\N{CHECK MARK}"  # type: ignore[attr-defined]
