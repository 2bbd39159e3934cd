"""Options keep their names whatever version of typer is installed."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_type_hints

import pytest
import typer
from typer.models import OptionInfo

import dentbench as package
from dentbench.cli import app
from dentbench.cli.shared import SharedOptions
from dentbench.report import commands as repeated
from dentbench.spec.evaluation import BatchPlan
from tests.helpers import Run


def commands() -> list[str]:
    """Return the names of all commands."""
    return sorted(typer.main.get_command(app.app).commands)  # type: ignore[attr-defined]


def is_name(default: object) -> bool:
    """Return whether what typer keeps as a default is really an option's first name."""
    return isinstance(default, str) and default.startswith("-")


@pytest.mark.parametrize("command", commands())
def test_every_option_states_its_name(command: str) -> None:
    """Typer 0.27 takes an option's name from its metavar where none is stated: --FORMAT."""
    actual = typer.main.get_command(app.app).commands[command]  # type: ignore[attr-defined]
    function = inspect.unwrap(actual.callback)
    hints = get_type_hints(function, include_extras=True)
    unnamed = [
        name
        for name, hint in hints.items()
        for item in getattr(hint, "__metadata__", ())
        if isinstance(item, OptionInfo) and not is_name(item.default) and not item.param_decls
    ]
    assert not unnamed
    for option in actual.params:
        assert all(name == name.lower() or len(name) == 2 for name in option.opts)


NUMBERS = ("N", "X", "1-5", "PERCENT", "POINTS", "BATCHES", "1")
"""How the help writes a number that an option takes; --pass-limit is a text such as 1e9."""


def number_options() -> list[tuple[str, str]]:
    """Return every command with each of its options that takes a number."""
    loaded = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]
    return [
        (command, option.opts[0])
        for command in commands()
        for option in loaded[command].params
        if option.metavar in NUMBERS and option.opts[0] not in ("points", "--pass-limit")
    ]


@pytest.mark.parametrize(("command", "option"), number_options())
def test_what_is_no_number_is_refused_in_words(dentbench: Run, command: str, option: str) -> None:
    points = ["points.npz"] if command == "judge" else []
    code, _, said = dentbench(command, *points, option, "x")
    assert code == 2 and said.startswith(f"dentbench: {option} is 'x'; it must be a")
    assert "number, such as " in said and said.count("\n") == 1


REFUSED = {
    "evaluat": "command 'evaluat' is unknown; did you mean evaluate",
    "xyzzy": "allowed: ablate, board, doctor",
    "evaluate --exmples 3": "option --exmples is unknown; did you mean --examples",
    "evaluate -steps 3": "option -steps is unknown; did you mean --steps?",
    "evaluate --where n=3": "it is an option of dentbench report",
    "--steps 3": "it is an option of dentbench evaluate",
    "evaluate --normalize 1": "has fewer than 2 values; write --normalize MEAN STD",
    "evaluate --batch-size": "has no value; write --batch-size N",
    "evaluate --quiet=yes": "takes no value, and '--quiet=yes' gives one",
    "evaluate digits-robust": "write --model digits-robust or --data digits-robust",
    "evaluate net:make": "--data net:make or --results net:make if it is a model",
    "report old": "write --model old or --results old if it is a model or a results folder",
    "doctor digits": "'digits' is no option, and no option before it takes it",
    "show": "dentbench show needs KEY|latest",
    "report --format pdf": "allowed: terminal, markdown",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_line_that_cannot_be_parsed_is_refused_in_one_sentence(dentbench: Run, line: str) -> None:
    code, out, said = dentbench(*line.split())
    assert code == 2 and not out and said.startswith("dentbench: ") and said.count("\n") == 1
    assert REFUSED[line] in said


def test_help_is_a_command_too(dentbench: Run) -> None:
    assert dentbench("help", "report") == dentbench("report", "--help")


def test_defaults_are_the_same_on_the_command_line_and_elsewhere() -> None:
    """From Python, in a spec, and where the command that repeats a record leaves them out."""
    shared = {field.name: field.default for field in fields(SharedOptions)}
    for name in ("batch_size", "seed", "precision", "compiling", "device"):
        assert inspect.signature(package.evaluate).parameters[name].default == shared[name]
    assert BatchPlan() == BatchPlan(size=shared["batch_size"], batching=shared["batching"])
    left_out = {option.lstrip("-").replace("-", "_"): value for option, value in repeated._DEFAULTS}
    own = {"attack": "standard", "mode": "instance"}  # chosen by the model and the data set
    assert left_out == own | {name: str(shared[name]) for name in left_out.keys() - own.keys()}
