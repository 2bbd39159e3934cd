"""``dentbench board``: every defense of a study on every model of it, in one table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dentbench.cli import config, usage
from dentbench.errors import NOT_GAINED, SpecError

STUDY: Final = Path("results/board/board.toml")
RESULTS: Final = Path("results/board")
TABLES: Final = ("model", "defense")
"""The tables of a study whose combinations are run."""


def board(
    context: typer.Context,
    study: Annotated[
        Path, typer.Option("--study", metavar="FILE", help="Models, defenses and options.")
    ] = STUDY,
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Where the board is.")
    ] = RESULTS,
    render: Annotated[
        bool, typer.Option("--render", help="Run nothing: write the page from the records.")
    ] = False,
) -> None:
    """Evaluate every defense of a study, and write the board: page, table and charts.

    Finished cells are not run again, so the same command goes on where it was stopped. Other
    options are those of dentbench evaluate.

    Examples:

    dentbench board

    dentbench board --render

    dentbench board --results board --examples 32 --until decided
    """
    runs = rows(study)
    if render and context.args:
        raise SpecError(f"{shlex.join(context.args)} given beside --render, which runs nothing")
    command: Any = context.find_root().command
    for number, options in enumerate([] if render else runs, start=1):
        typer.echo(f"{study}, row {number} of {len(runs)}: {shlex.join(options)}", err=True)
        arguments = ["evaluate", *options, *context.args, "--results", str(results), "--quiet"]
        code = usage.call(command, arguments, 0, str(study))
        if code not in (0, NOT_GAINED):
            raise typer.Exit(code)
        _write(results, study)
    if render:
        _write(results, study)
    typer.echo(f"wrote {results / 'README.md'}", err=True)


def _write(results: Path, study: Path) -> None:
    from dentbench.report.board import write_board

    write_board(results, study.as_posix(), command_of(study, results))


def command_of(study: Path, results: Path) -> str:
    """Return the command that goes on with a board: defaults are left out."""
    words = ["dentbench", "board"]
    words += [] if study == STUDY else ["--study", study.as_posix()]
    words += [] if results == RESULTS else ["--results", results.as_posix()]
    return shlex.join(words)


def rows(study: Path) -> list[list[str]]:
    """Return the options of every evaluation of a study: all defenses on a model, then the next.

    Raises :class:`~dentbench.errors.SpecError` for a file that is no study of a board.
    """
    values = config.read(study)
    tables: list[list[Mapping[str, Any]]] = []
    for name in TABLES:
        entries = values.pop(name, None)
        if (
            not isinstance(entries, list)
            or not entries
            or not all(isinstance(x, dict) for x in entries)
        ):
            raise SpecError(f"{study} has no tables [[{name}]]; write each {name} as one")
        if any(name not in table for table in entries):
            raise SpecError(f"{study}: a table [[{name}]] does not say {name}")
        tables.append(entries)
    return [
        _as_written({**values, **model, **defense}) for model in tables[0] for defense in tables[1]
    ]


def _as_written(options: Mapping[str, Any]) -> list[str]:
    """Return options as on a command line; a false option is left out."""
    written: list[str] = []
    for option, value in options.items():
        name = "--" + option.replace("_", "-")
        if isinstance(value, bool):
            written += [name] if value else []
        else:
            values = value if isinstance(value, list) else [value]
            written += [part for item in values for part in (name, str(item))]
    return written
