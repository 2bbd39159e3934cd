"""The ``dentbench`` command: its sub-commands, and errors turned into exit codes once."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from dentbench.cli import config, repeat
from dentbench.cli.ablate import ablate
from dentbench.cli.doctor import doctor
from dentbench.cli.evaluate import evaluate
from dentbench.cli.fetch import fetch
from dentbench.cli.judge import judge
from dentbench.cli.report import report
from dentbench.errors import NOT_GAINED, DentBenchError

TRACEBACK: Final = "--traceback"

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
app.command("evaluate")(evaluate)
app.command("ablate")(ablate)
app.command("judge")(judge)
app.command("report")(report)
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


def _repeatable(command: Any) -> set[str]:
    options = [param for param in command.params if getattr(param, "multiple", False)]
    return {name for option in options for name in option.opts}


def main() -> None:
    """Run the command line; every error that a user can fix is one sentence and an exit code."""
    arguments = [argument for argument in sys.argv[1:] if argument != TRACEBACK]
    commands: Any = typer.main.get_command(app)
    chosen = commands.commands.get(arguments[0]) if arguments else None
    try:
        sys.exit(max(_run(commands, chosen, arguments)))
    except DentBenchError as error:
        if TRACEBACK in sys.argv:
            traceback.print_exception(error)
        typer.echo(f"dentbench: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody to tell
        sys.exit(1)


def _run(commands: Any, chosen: Any, arguments: list[str]) -> list[int]:
    """Run a command, once for each run of its config file, and return the exit codes."""
    count = 1
    if chosen is not None:
        # Commands with positional names already take several values after one option.
        if all(param.param_type_name == "option" for param in chosen.params):
            arguments = [arguments[0], *spread(arguments[1:], _repeatable(chosen))]
        if any(repeat.OPTION in param.opts for param in chosen.params):
            arguments = repeat.expanded(arguments)
        config.content.cache_clear()
        path = config.given(arguments)
        count = 1 if path is None else len(config.runs(path, chosen.params))
    codes = []
    for number in range(count):
        if count > 1:
            typer.echo(f"{path}, run {number + 1} of {count}", err=True)
        try:
            commands(args=arguments, prog_name="dentbench", obj=number)
        except SystemExit as stopped:
            codes.append(int(stopped.code or 0))
        if codes[-1] not in (0, NOT_GAINED):
            break
    return codes
