"""Options keep their names whatever version of typer is installed."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest
import typer
from typer.models import OptionInfo

from dentbench.cli import app


def commands() -> list[str]:
    """Return the names of all commands."""
    return sorted(typer.main.get_command(app.app).commands)  # type: ignore[attr-defined]


def is_name(default: object) -> bool:
    """Return whether what typer keeps as a default is really an option's first name."""
    return isinstance(default, str) and default.startswith("-")


@pytest.mark.parametrize("command", commands())
def test_every_option_states_its_name(command: str) -> None:
    """Typer 0.27 takes an option's name from its metavar where none is stated: --FORMAT."""
    found = typer.main.get_command(app.app).commands[command]  # type: ignore[attr-defined]
    function = inspect.unwrap(found.callback)
    hints = get_type_hints(function, include_extras=True)
    unnamed = [
        name
        for name, hint in hints.items()
        for one in getattr(hint, "__metadata__", ())
        if isinstance(one, OptionInfo) and not is_name(one.default) and not one.param_decls
    ]
    assert not unnamed
    for option in found.params:
        assert all(name == name.lower() or len(name) == 2 for name in option.opts)
