"""The ``dentbench`` command: its sub-commands, and errors turned into exit codes once."""

from __future__ import annotations

import errno
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dentbench.cli import config, repeat, signals, surroundings, usage, words
from dentbench.cli.ablate import ablate
from dentbench.cli.board import board
from dentbench.cli.doctor import doctor
from dentbench.cli.evaluate import evaluate
from dentbench.cli.fetch import fetch
from dentbench.cli.judge import judge
from dentbench.cli.panels import PanelCommand
from dentbench.cli.report import report
from dentbench.cli.show import list_records, show
from dentbench.cli.users_line import users_line
from dentbench.errors import (
    NOT_GAINED,
    DentBenchError,
    InterruptedRunError,
    os_reason,
)

TRACEBACK: Final = "--traceback"
UNUSABLE_PATH: Final = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)
"""The errors of a path that a user names, wherever it is used first."""

app = typer.Typer(
    name="dentbench",
    help="Tells whether a dynamic (test-time adapting) adversarial defense really holds.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 2 something you can fix; 3 no gain that evaluate --require-gain "
    "asks for; 130 stopped by Ctrl-C, 143 by SIGTERM, and the same command resumes. Completion of "
    "commands, options and names in your shell: dentbench --install-completion.",
)
app.command("fetch", short_help="Bring models and data sets into the cache.")(fetch)
app.command(
    "evaluate",
    cls=PanelCommand,
    short_help="Attack a model and a defense of it, and print a verdict.",
)(evaluate)
app.command("ablate", cls=PanelCommand, short_help="Attack dent part by part: Table 2.")(ablate)
app.command(
    "board",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    short_help="Evaluate every defense of a study, in one table.",
)(board)
app.command("judge", cls=PanelCommand, short_help="Judge points of any tool on a defense.")(judge)
app.command("report", short_help="Lay out records as tables, charts or one page.")(report)
app.command("show", short_help="Show everything about one record.")(show)
app.command("list", short_help="List the records, one a line.")(list_records)
app.command("doctor", short_help="Say what is installed and works, and how to mend the rest.")(
    doctor
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dentbench.records.provenance import version_of

        typer.echo(f"dentbench {version_of('dentbench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    traceback: Annotated[  # taken out by main, for it may stand anywhere
        bool,
        typer.Option(TRACEBACK, help="Show where an error comes from; anywhere on the line."),
    ] = False,
) -> None:
    """Tells whether a dynamic (test-time adapting) adversarial defense really holds."""


@cache
def _commands() -> Any:
    """Build the parsers of all commands, once a process."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; every error that a user can fix is one sentence and an exit code."""
    try:
        with signals.raised():
            _answered()
    except KeyboardInterrupt:  # between the parts of a command
        error = signals.error()
        typer.echo(f"dentbench: {error}", err=True)
        sys.exit(error.exit_code)


def _answered() -> None:
    """Run the command line and end the process with its exit code."""
    surroundings.mend()
    surroundings.write_any_character()
    arguments = [words.expanded(argument) for argument in sys.argv[1:] if argument != TRACEBACK]
    commands = _commands()
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    chosen = commands.commands.get(arguments[0]) if arguments else None
    try:
        with surroundings.working_folder_last(), surroundings.written_out(arguments):
            code = max(_run(commands, chosen, arguments))
        sys.exit(code)
    except DentBenchError as error:
        if TRACEBACK in sys.argv:
            traceback.print_exception(error)
        typer.echo(f"dentbench: {error}{users_line(error)}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody to tell
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNUSABLE_PATH:
            raise
        if TRACEBACK in sys.argv:
            traceback.print_exception(error)
        typer.echo(
            f"dentbench: {error.filename} cannot be used: {os_reason(error)}; name another file "
            "or folder",
            err=True,
        )
        sys.exit(DentBenchError.exit_code)


def _check_ahead(commands: Any, arguments: list[str], count: int, path: Path | None) -> None:
    """Refuse a config file before its first run if a later run cannot be carried out."""
    if count < 2:
        return
    from dentbench.cli.running import checking  # late: --help loads none of it

    for number in range(1, count):
        try:
            with checking():
                usage.call(commands, arguments, number)
        except InterruptedRunError:
            raise
        except DentBenchError as error:
            raise type(error)(f"{path}, run {number + 1} of {count}: {error}") from error


def _run(commands: Any, chosen: Any, arguments: list[str]) -> list[int]:
    """Run a command, once for each run of its config file, and return the exit codes."""
    count, path = 1, None
    if chosen is not None:
        arguments = words.understood(arguments, chosen)
        words.require_values(arguments, chosen)
        words.tell_repeated(arguments, chosen)
        # Commands with positional names already take several values after an option.
        if all(param.param_type_name == "option" for param in chosen.params):
            arguments = [arguments[0], *words.spread(arguments[1:], words.repeatable(chosen))]
        if any(repeat.OPTION in param.opts for param in chosen.params):
            arguments = repeat.expanded(arguments)
        config.content.cache_clear()
        path = config.given(arguments)
        count = 1 if path is None else len(config.runs(path, chosen.params))
    codes = []
    _check_ahead(commands, arguments, count, path)
    for number in range(count):
        if count > 1:
            typer.echo(f"{path}, run {number + 1} of {count}", err=True)
        codes.append(usage.call(commands, arguments, number, "" if path is None else str(path)))
        if codes[-1] not in (0, NOT_GAINED):
            break
    return codes
