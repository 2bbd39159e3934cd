"""Read a defense as it is named, "tent,steps=10", and check its settings; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from dentbench.defenses.catalogue import DEFENSES, DENT, NONE
from dentbench.errors import SpecError
from dentbench.spec.defense import DefenseSpec
from dentbench.spec.evaluation import parse_eps
from dentbench.validation import require_count, require_number


def parse_defense(text: str) -> tuple[str, dict[str, str], str]:
    """Return the name, the settings, as written, and the title of "NAME,SETTING=VALUE,...".

    A user's defense may begin with its title: "TITLE=MODULE:CALLABLE,...". Raises
    :class:`~dentbench.errors.SpecError` for a setting without a value, or given twice.
    """
    name, *parts = (part.strip() for part in text.split(","))
    title, equals, own = (part.strip() for part in name.partition("="))
    if equals:
        if not (title and ":" in own):
            raise SpecError(
                f"defense is {text!r}; a title stands before a defense of your own, such as "
                "short=my_defense:make, and settings after the name, such as tent,steps=10"
            )
        name = own
    settings: dict[str, str] = {}
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        if not (equals and key.isidentifier() and value):
            raise SpecError(
                f"defense is {text!r}; write settings as NAME,SETTING=VALUE, such as tent,steps=10"
            )
        if key in settings:
            raise SpecError(f"defense is {text!r}; {key} is given twice")
        settings[key] = value
    return name, settings, title if equals else ""


def built_in(name: str, settings: Mapping[str, Any] | None = None) -> DefenseSpec:
    """Return the spec of a built-in defense other than dent, its defaults filled in.

    Values may be texts as written. Raises :class:`~dentbench.errors.SpecError` for an unknown
    name or setting and for a bad value.
    """
    name = DEFENSES.canonical(name)
    if name in (DENT, NONE):
        raise SpecError(f"{name} has no spec of this kind; give a DentSpec, or None for static")
    card = DEFENSES[name]
    values = dict(card.settings)
    for key, value in (settings or {}).items():
        if key not in values:
            known = ", ".join(values) or "none"
            raise SpecError(f"{name} has no setting {key!r}; its settings: {known}")
        most = math.inf if key in card.above_one else 1
        values[key] = _checked(f"{key} of {name}", value, values[key], most)
    return DefenseSpec(
        name=name,
        settings=tuple(values.items()),
        separable=card.separable,
        random=card.random,
        published_protocol=card.published_protocol,
        views=card.views(values),
    )


def _checked(name: str, value: Any, default: Any, most: float) -> Any:
    """Return a value in the type of the default, or raise :class:`SpecError`.

    ``most``: the largest that a float may be.
    """
    if isinstance(default, bool):
        value = {"true": True, "false": False}.get(str(value).lower(), value)
        if not isinstance(value, bool):
            raise SpecError(f"{name} is {value!r}; allowed: true, false")
        return value
    if isinstance(default, Fraction):
        value = parse_eps(value) if isinstance(value, str) else value
        require_number(name, value, 0, open_low=True)
        return Fraction(value)
    value = _number(value)
    if isinstance(default, int):
        require_count(name, value, 1)
        return value
    require_number(name, value, 0, most, open_low=True)
    return float(value)


def _number(value: Any) -> Any:
    """Return a text as a number, or any other value as it is."""
    for kind in (int, float):
        try:
            return kind(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value
