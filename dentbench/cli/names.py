"""Names on the command line: list them in help, complete them, suggest the nearest for a typo."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import typer

from dentbench.errors import SpecError
from dentbench.validation import require_choice

E = TypeVar("E", bound=StrEnum)


def one_of(kind: str, values: type[E]) -> dict[str, Any]:
    """Return the arguments of an option that takes one of a few names, with suggestions."""
    names = [value.value for value in values]

    def parse(text: str) -> E:
        try:
            require_choice(kind, text, names)
        except SpecError as error:
            raise typer.BadParameter(str(error)) from None
        return values(text)

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return {"parser": parse, "autocompletion": complete}


def number_option(kind: type[int] | type[float], name: str, example: float, **more: Any) -> Any:
    """Return an option that takes a number; the refusal of another text gives an example.

    ``more``: what Typer's options take.
    """
    words = "a whole number" if kind is int else "a number"

    def parse(text: Any) -> float:
        try:
            return kind(text)
        except (ValueError, OverflowError):
            raise typer.BadParameter(
                f"{name} is {text!r}; it must be {words}, such as {example:g}"
            ) from None

    return typer.Option(name, parser=parse, **more)


def listed(module: str, registry: str) -> str:
    """Return a place in a help text for the names of a registry, which :func:`filled` fills."""
    return f"{{{module}:{registry}}}"


def filled(text: str) -> str:
    """Return a help text with the names in its places; only now are their registries loaded."""

    def names(place: re.Match[str]) -> str:
        return ", ".join(getattr(importlib.import_module(place[1]), place[2]))

    return re.sub(r"\{([\w.]+):(\w+)\}", names, text)


def names_of(module: str, registry: str) -> Callable[[str], list[str]]:
    """Return the completion of a name on the command line, from a registry loaded then."""

    def complete(incomplete: str) -> list[str]:
        names = getattr(importlib.import_module(module), registry)
        return [name for name in names if name.lower().startswith(incomplete.lower())]

    return complete
