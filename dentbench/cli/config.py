"""The config file: values for options, and whole studies of several runs.

A TOML file of options by name, or the table ``[tool.dentbench]`` of a ``pyproject.toml``. A list
for an option that takes one value is run value by value, and each ``[[study]]`` table is a study
of its own over the values before it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import typer

from dentbench.errors import SpecError, os_reason
from dentbench.paths import expanded
from dentbench.validation import encoding_fault, suggestion

Values = dict[str, Any]
"""Options of a run by name, with underscores."""


@functools.cache
def content(path: Path) -> bytes:
    """Read a config file, once for a command: a pipe gives its content once.

    Raises :class:`~dentbench.errors.SpecError` for a file that is missing or cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except FileNotFoundError:
        raise SpecError(f"config file {path} is not there; give the path of one that is") from None
    except OSError as error:
        raise SpecError(f"config file {path} cannot be read: {os_reason(error)}") from error


def read(path: Path) -> Values:
    """Read a config file; raises :class:`~dentbench.errors.SpecError` for a bad file."""
    import tomllib

    text = content(path)
    if fault := encoding_fault(text):
        raise SpecError(f"config file {path} cannot be read: {fault}")
    try:
        values = tomllib.loads(text.decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        said = str(error)
        raise SpecError(
            f"config file {path} is not TOML: {said[:1].lower()}{said[1:]}; write lines such as "
            'examples = 64, texts in quotes: attack = "quick"'
        ) from error
    if "tool" in values:
        if "dentbench" not in values["tool"]:
            raise SpecError(f"config file {path} has no table [tool.dentbench]")
        values = values["tool"]["dentbench"]
    return _named(values)


def _named(values: Mapping[str, Any]) -> Values:
    return {name.replace("-", "_"): value for name, value in values.items()}


def runs(path: Path, params: Sequence[Any]) -> list[Values]:
    """Return the options of every run that a config file is, for a command's parameters.

    Raises :class:`~dentbench.errors.SpecError` for an unknown name in any of them, before the first
    is run.
    """
    values = read(path)
    studies = values.pop("study", [{}])
    if not isinstance(studies, list) or not all(isinstance(table, dict) for table in studies):
        raise SpecError(f"config file {path}: write each study as a table [[study]]")
    known = _by_name(params)
    runs = []
    for study in studies:
        merged = {**values, **_named(study)}
        axes = [name for name, value in merged.items() if _is_axis(known.get(name), value)]
        for point in itertools.product(*(merged[name] for name in axes)):
            runs.append({**merged, **dict(zip(axes, point, strict=True))})
    for chosen in runs:
        _require_known(chosen, known, path)
    if not runs:
        raise SpecError(f"config file {path} has an empty list, so there is nothing to run")
    return runs


def _require_known(chosen: Values, known: Mapping[str, Any], path: Path) -> None:
    for name, value in chosen.items():
        if name not in known or name == "config":
            names = sorted(known.keys() - {"config", "help"})
            near = suggestion(name, names) or f"; known: {', '.join(names)}"
            raise SpecError(f"config file {path} sets {name!r}, which is no option{near}")
        _as_written(name, value, known[name], path)


def _is_axis(param: Any, value: Any) -> bool:
    """Return whether a value is a list for an option that takes a list."""
    several = bool(getattr(param, "multiple", False)) or getattr(param, "nargs", 1) > 1
    return param is not None and isinstance(value, list) and not several


def _by_name(params: Sequence[Any]) -> dict[str, Any]:
    return {
        option.removeprefix("--").replace("-", "_"): param
        for param in params
        for option in getattr(param, "opts", ())
        if option.startswith("--")
    }


def home_expanded(text: str) -> str:
    """Return a value with the home folder in place of a leading "~", as shells do it.

    They leave it in ``--results=~/folder``, and config files know nothing of it.
    """
    return str(expanded(text)) if text.startswith("~") else text


def given(arguments: Sequence[str]) -> Path | None:
    """Return the config file that a command line names, or None."""
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--config":
            values = [value] if equals else arguments[number + 1 : number + 2]
            there = bool(values) and bool(values[0]) and not values[0].startswith("--")
            return Path(values[0]) if there else None  # the parser says that it is missing
    return None


def apply(context: typer.Context, path: Path | None) -> Path | None:
    """Let a config file's values stand in for options that the command line leaves out.

    Of a file of several runs those of the run whose number is the context's object.
    """
    if path is None or context.resilient_parsing:
        return path
    params = context.command.params
    chosen = runs(path, params)[context.obj or 0]
    known = _by_name(params)
    defaults: Values = {}
    for name, value in chosen.items():
        defaults[str(known[name].name)] = _as_written(name, value, known[name], path)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def keep(path: Path, results: Path) -> None:
    """Store a config file with the results, under a name that its content determines."""
    from dentbench.records.safe_files import is_stream, write_atomic

    text = content(path)
    folder = results / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    stem = "config" if is_stream(path) or str(path) == "-" else path.stem
    write_atomic(folder / f"{stem}-{hashlib.sha256(text).hexdigest()[:12]}.toml", text)


def _as_written(name: str, value: Any, param: Any, path: Path) -> Any:
    many = bool(getattr(param, "multiple", False)) or getattr(param, "nargs", 1) > 1
    values = value if isinstance(value, list) else [value]
    if isinstance(value, Mapping):
        raise SpecError(f"config file {path} gives {name} the value {value!r}; give one value")
    if getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise SpecError(f"config file {path} gives {name} the value {value!r}; true or false")
        return value
    written = [_text(single) for single in values]
    return written if many else written[0]


def _text(value: Any) -> str:
    """Return a value as it stands on a command line; a list in a list has commas between."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, float) and math.isfinite(value):
        return f"{Decimal(repr(value)):f}"  # 0.00001, not 1e-05
    return home_expanded(str(value))
