"""The ``dentbench`` command: its sub-commands, and errors turned into exit codes once."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from dentbench.cli import config, json_output, repeat, usage
from dentbench.cli.ablate import ablate
from dentbench.cli.board import board
from dentbench.cli.doctor import doctor
from dentbench.cli.evaluate import evaluate
from dentbench.cli.fetch import fetch
from dentbench.cli.judge import judge
from dentbench.cli.panels import PanelCommand
from dentbench.cli.report import report
from dentbench.cli.show import list_records, show
from dentbench.errors import (
    NOT_GAINED,
    DentBenchError,
    InterruptedRunError,
    SpecError,
    StoreError,
    os_reason,
)

TRACEBACK: Final = "--traceback"
UNUSABLE_PATH: Final = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP)
"""What no path that a user names may be, wherever it is used first."""

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
app.command("fetch")(fetch)
app.command("evaluate", cls=PanelCommand)(evaluate)
app.command("ablate", cls=PanelCommand)(ablate)
app.command(
    "board",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(board)
app.command("judge", cls=PanelCommand)(judge)
app.command("report")(report)
app.command("show")(show)
app.command("list")(list_records)
app.command("doctor")(doctor)


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


@cache
def _commands() -> Any:
    """Build the parsers of all commands, once a process."""
    return typer.main.get_command(app)


def _repeatable(command: Any) -> set[str]:
    options = [param for param in command.params if getattr(param, "multiple", False)]
    return {name for option in options for name in option.opts}


def _mend_surroundings() -> None:
    """Let a terminal without a width, and a standard output that was closed, do no harm."""
    for name in ("COLUMNS", "LINES"):  # libraries expect numbers from 1 there
        value = os.environ.get(name, "1")
        if not (value.isdecimal() and int(value)):
            del os.environ[name]
    if sys.stdout is None:  # else the next file that is opened would be standard output
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (it stays open)
        typer.echo("dentbench: standard output is closed, so nothing is printed", err=True)


@contextlib.contextmanager
def _written_out(arguments: Sequence[str]) -> Iterator[None]:
    """Flush standard output, and report in a sentence where it takes no more.

    The document of ``--json`` among the arguments has it to itself.
    """
    json_output.clear()
    try:
        try:
            with json_output.alone(arguments):
                yield
        finally:
            json_output.deliver()
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EBADF):
            raise
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (Python flushes it at its end)
        raise StoreError(
            f"standard output cannot be written: {os_reason(error)}; what was computed is kept, "
            "so run the same command again once there is room"
        ) from error


def _expanded(argument: str) -> str:
    """Return an argument with the home folder in place of a leading "~", after "=" too."""
    name, equals, value = argument.partition("=")
    if equals and name.startswith("--"):
        return f"{name}={config.home_expanded(value)}"
    return config.home_expanded(argument)


def main() -> None:
    """Run the command line; every error that a user can fix is one sentence and an exit code."""
    _mend_surroundings()
    _write_any_character()
    arguments = [_expanded(argument) for argument in sys.argv[1:] if argument != TRACEBACK]
    commands = _commands()
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    chosen = commands.commands.get(arguments[0]) if arguments else None
    try:
        with _working_folder_last(), _written_out(arguments):
            code = max(_run(commands, chosen, arguments))
        sys.exit(code)
    except DentBenchError as error:
        if TRACEBACK in sys.argv:
            traceback.print_exception(error)
        typer.echo(f"dentbench: {error}", err=True)
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


def _write_any_character() -> None:
    """Write what a terminal's encoding lacks by its name, instead of ending in an error."""
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
        if isinstance(stream, io.TextIOWrapper) and not encoding.startswith("utf"):
            stream.reconfigure(errors="namereplace")


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


def understood(arguments: Sequence[str], command: Any) -> list[str]:
    """Return the arguments with options by their names here, said on the error stream.

    Underscores are taken for dashes. Where a command has no file to write ("--out"), "--output" is
    its results folder.
    """
    known = {name for parameter in command.params for name in parameter.opts}
    completed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        meant = name.replace("_", "-").lower() if name.startswith("--") else name
        meant = OTHER_NAMES.get(meant, meant)
        if meant == "--out" and meant not in known:
            meant = "--results"
        if name.startswith("--") and name not in known and meant in known:
            typer.echo(f"dentbench: {name} is called {meant} here, and taken for it", err=True)
            argument = meant + equals + value
        completed.append(argument)
    return completed


def _require_values(arguments: Sequence[str], command: Any) -> None:
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


@contextlib.contextmanager
def _working_folder_last() -> Iterator[None]:
    """Let files of the working folder be imported, by processes that are started too.

    A model or a defense may import late; Python itself adds the folder to ``python -m`` alone.
    """
    folder = ""
    with contextlib.suppress(OSError):  # the folder may have been removed
        folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:  # the last of it: one before is the caller's own
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


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
        arguments = understood(arguments, chosen)
        _require_values(arguments, chosen)
        # Commands with positional names already take several values after an option.
        if all(param.param_type_name == "option" for param in chosen.params):
            arguments = [arguments[0], *spread(arguments[1:], _repeatable(chosen))]
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
