"""Call a command; put its parser's refusals into sentences, as all refusals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import typer

from dentbench.cli import signals
from dentbench.errors import SpecError
from dentbench.validation import suggestion

_UsageError: Final[Any] = typer.BadParameter.__mro__[1]
"""The errors of the parser of any version of Typer for a command line that it refuses."""


MEANT: Final = {"--model": "a model", "--data": "data", "--results": "a results folder"}
"""The options that users leave out before a word of a kind, which is named in the refusal."""


def call(commands: Any, arguments: Sequence[str], number: int, source: str = "") -> int:
    """Call the command that the arguments name, and return its exit code.

    ``number``: of the run of its config file. ``source``: the config file, named in refusals of
    values that stand there. Raises :class:`~dentbench.errors.SpecError` for a command line that
    cannot be parsed, and :class:`~dentbench.errors.InterruptedRunError` for Ctrl-C and SIGTERM.
    """
    try:
        code = commands(args=[*arguments], prog_name="dentbench", obj=number, standalone_mode=False)
    except SystemExit as stopped:
        code = stopped.code
    except (typer.Abort, KeyboardInterrupt):  # a version of Typer tells Ctrl-C by any of these
        code = signals.INTERRUPTED
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return int(error.exit_code)
        raise SpecError(_sentence(error, commands, arguments, source)) from None
    if code == signals.INTERRUPTED:
        raise signals.error()
    return int(code or 0)


def _sentence(error: Any, commands: Any, arguments: Sequence[str], source: str) -> str:
    """Return a parser's refusal as a sentence: what was got, what is allowed, what to do."""
    kind, said = type(error).__name__, error.format_message()
    command = commands.commands.get(arguments[0], commands) if arguments else commands
    path = "dentbench" if command is commands else f"dentbench {arguments[0]}"
    if kind == "NoSuchOption":
        return _unknown_option(error.option_name, command, commands, arguments, path)
    if kind == "MissingParameter":
        name = "an argument" if error.param is None else error.param.metavar or error.param.name
        return f"{path} needs {name}, and it is not given; {path} --help says what it is"
    if kind == "BadParameter":
        given = {argument.partition("=")[0] for argument in arguments}
        elsewhere = source and error.param is not None and not given & {*error.param.opts}
        return f"config file {source}: {error.message}" if elsewhere else str(error.message)
    if hasattr(error, "option_name"):
        return _misused_option(error.option_name, said, command, arguments)
    if unknown := re.search(r"No such command '(.*?)'", said):
        known = sorted(commands.commands)
        near = suggestion(unknown[1], known) or f"; allowed: {', '.join(known)}"
        return f"command {unknown[1]!r} is unknown{near}"
    if extra := re.search(r"unexpected extra arguments? *(?:\(s\))? *\((.*)\)", said):
        meant = [name for name in MEANT if name in _options(command)]
        written = " or ".join(f"{name} {extra[1]}" for name in meant)
        kinds = " or ".join(MEANT[name] for name in meant)
        remedy = f"write {written} if it is {kinds}" if meant else f"see {path} --help"
        return f"{extra[1]!r} is no option, and no option before it takes it; {remedy}"
    return f"{said[:1].lower()}{said[1:].rstrip('.')}; see {path} --help"


def _unknown_option(
    name: str, command: Any, commands: Any, arguments: Sequence[str], path: str
) -> str:
    for argument in arguments:  # "-steps" is parsed as "-s" with a value
        if argument.startswith(name) and not name.startswith("--"):
            name = argument.partition("=")[0]
            break
    here, double = _options(command), f"--{name.lstrip('-')}"
    where = [title for title in commands.commands if double in _options(commands.commands[title])]
    if where and double not in here:
        titles = " or ".join(f"dentbench {title}" for title in where)
        return f"option {name} is unknown to {path}; it is an option of {titles}"
    near = f"; did you mean {double}?" if double in here else suggestion(double, here)
    every = "--help-all" if "--help-all" in here else "--help"
    return f"option {name} is unknown{near}; {path} {every} lists the options"


def _misused_option(name: str, said: str, command: Any, arguments: Sequence[str]) -> str:
    if "does not take a value" in said:
        written = next((text for text in arguments if text.startswith(f"{name}=")), name)
        return f"option {name} takes no value, and {written!r} gives one; write {name} alone"
    metavar = next((param.metavar for param in command.params if name in param.opts), None)
    written = f"{name} {metavar or 'VALUE'}"
    if count := re.search(r"requires (\d+) arguments", said):
        return f"option {name} has fewer than {count[1]} values; write {written}"
    return f"option {name} has no value; write {written}"


def _options(command: Any) -> list[str]:
    return [name for param in command.params for name in param.opts if name.startswith("--")]
