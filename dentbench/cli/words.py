"""Read the words of a command line: other names, several values, the home folder."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

import typer

from dentbench.cli import config
from dentbench.errors import SpecError


def spread(arguments: Sequence[str], repeatable: set[str]) -> list[str]:
    """Return the arguments with ``--steps 1 3 6`` written as ``--steps 1 --steps 3 --steps 6``.

    ``repeatable``: the options that may be given more than once.
    """
    result: list[str] = []
    option = ""
    fresh = False
    for argument in arguments:
        if argument.startswith("-") and not argument[1:2].isdigit():
            option, fresh = argument, True
        elif option in repeatable and not fresh:
            result.append(option)
        else:
            fresh = False
        result.append(argument)
    return result


def repeatable(command: Any) -> set[str]:
    """Return the options of a command that may be given more than once."""
    options = [param for param in command.params if getattr(param, "multiple", False)]
    return {name for option in options for name in option.opts}


def expanded(argument: str) -> str:
    """Return an argument with the home folder in place of a leading "~", after "=" too."""
    name, equals, value = argument.partition("=")
    if equals and name.startswith("--"):
        return f"{name}={config.home_expanded(value)}"
    return config.home_expanded(argument)


OTHER_NAMES: Final = MappingProxyType(
    {
        **dict.fromkeys(("--n", "--limit", "--num-examples", "--n-ex"), "--examples"),
        **dict.fromkeys(("--output", "--output-file", "--save-to"), "--out"),
        **dict.fromkeys(("--outdir", "--out-dir", "--output-dir", "--results-dir"), "--results"),
        **dict.fromkeys(("--epsilon", "--epsilons"), "--eps"),
        **dict.fromkeys(("--bs", "--batchsize"), "--batch-size"),
        **dict.fromkeys(("--checkpoint", "--ckpt", "--model-name", "--weights"), "--model"),
        **dict.fromkeys(("--architecture", "--network"), "--arch"),
        **dict.fromkeys(("--dataset-name",), "--dataset"),
        **dict.fromkeys(("--attacks",), "--attack"),
        **dict.fromkeys(("--protocols",), "--protocol"),
        **dict.fromkeys(("--defence",), "--defense"),
        **dict.fromkeys(("--iters", "--n-iter"), "--iterations"),
        **dict.fromkeys(("--dryrun",), "--dry-run"),
        **dict.fromkeys(("--learning-rate",), "--lr"),
        **dict.fromkeys(("--cache-dir",), "--cache"),
    }
)
"""Other tools' names for our options."""


FORMATS: Final = ("--json", "--csv", "--html", "--latex", "--markdown")
"""The formats of a report, as options by themselves."""


def understood(arguments: Sequence[str], command: Any) -> list[str]:
    """Return the arguments with options by their names here, said on the error stream.

    Underscores are taken for dashes. Where a command has no file to write ("--out"), "--output" is
    its results folder; where it has formats, "--json" is one of them.
    """
    known = {name for parameter in command.params for name in parameter.opts}
    completed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        meant = name.replace("_", "-").lower() if name.startswith("--") else name
        meant = OTHER_NAMES.get(meant, meant)
        if meant == "--out" and meant not in known:
            meant = "--results"
        if meant in FORMATS and meant not in known and "--format" in known and not equals:
            meant, equals, value = "--format", "=", meant.removeprefix("--")
            typer.echo(f"dentbench: {name} is --format {value} here, and taken for it", err=True)
            argument = meant + equals + value
        elif name.startswith("--") and name not in known and meant in known:
            typer.echo(f"dentbench: {name} is called {meant} here, and taken for it", err=True)
            argument = meant + equals + value
        completed.append(argument)
    return completed


def tell_repeated(arguments: Sequence[str], command: Any) -> None:
    """Say on the error stream which value counts of an option that takes one and is given more."""
    single = {
        name: parameter.opts[0]
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("-")
        and not getattr(parameter, "multiple", False)
        and not getattr(parameter, "is_flag", False)
        and parameter.nargs == 1
    }
    values: dict[str, list[str]] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in single:
            values.setdefault(single[name], []).append(value if equals else following)
    for name, given in values.items():
        if len(set(given)) > 1:
            typer.echo(
                f"dentbench: {name} is given {len(given)} times, and takes one value: the last, "
                f"{given[-1]}, counts",
                err=True,
            )


def require_values(arguments: Sequence[str], command: Any) -> None:
    """Refuse an option without its value: an empty text, or the next option in its place.

    An empty text is a shell variable that is not set, and no file, name or number.
    """
    params = {
        name: parameter
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("-")
    }
    before = ""
    for argument in arguments[1:]:
        name, equals, value = argument.partition("=")
        if not argument or (name in params and equals and not value):
            empty = name or before
            subject = f"option {empty}" if empty in params else "an argument"
            raise SpecError(
                f"{subject} has an empty value; give one, or leave it out (a shell variable may be "
                "unset)"
            )
        if (
            argument in params
            and before in params
            and not getattr(params[before], "is_flag", False)
        ):
            raise SpecError(f"option {before} has no value: {argument}, an option, follows it")
        before = argument
