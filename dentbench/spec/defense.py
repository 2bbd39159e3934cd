"""The spec of a defense that is not dent: its name, its settings and its source."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Final

from dentbench.errors import SpecError

PLAIN: Final = (bool, int, float, str, Fraction)
"""The types that a setting may have."""


_LENGTHS: Final = frozenset({"lr", "alpha", "step_size"})
"""Settings that are the length of a step."""


@dataclass(frozen=True, kw_only=True)
class DefenseSpec:
    """A defense beside dent: built in, or user-defined.

    ``name``: a built-in's, ``module:callable``, or the type of an object given from Python.
    ``settings``: names and plain values, in alphabetical order. ``sha256``: of the source of a
    user's defense and of the state it holds, "" for a built-in. ``separable``: whether an image's
    answer is independent of its batch mates; false for a user's defense that does not declare it.
    ``random``: whether its answers are declared to be drawn, be it for few images alone; without a
    declaration differing answers show it. ``title``: its name in tables, "" for ``name``;
    ``published_protocol``: the protocol that its own paper attacked it by; ``views``: the most
    calls of the network in the place of each call by a defense that moves images in as many steps;
    ``source``: the SHA-256 of its source files alone. The last four are no part of its identity.
    Raises :class:`~dentbench.errors.SpecError`.
    """

    name: str
    settings: tuple[tuple[str, Any], ...] = ()
    sha256: str = ""
    separable: bool = False
    random: bool = False
    title: str = field(default="", compare=False)
    published_protocol: str = field(default="published", compare=False)
    views: int = field(default=1, compare=False)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, value in self.settings:
            if not isinstance(value, PLAIN):
                raise SpecError(
                    f"setting {name} of {self.name} is a {type(value).__name__}; "
                    "give a number, a text or true or false"
                )
        object.__setattr__(self, "settings", tuple(sorted(self.settings)))

    @property
    def mode(self) -> str:
        """Neither of dent's modes: "other"."""
        return "other"

    @property
    def steps(self) -> int:
        """The updates per batch, where it has a setting of that name; else 0."""
        steps = dict(self.settings).get("steps", 0)
        return steps if isinstance(steps, int) else 0

    def with_steps(self, steps: int) -> DefenseSpec:
        """Return the same defense with so many updates per batch."""
        return replace(self, settings=tuple({**dict(self.settings), "steps": steps}.items()))

    def with_larger_steps(self, steps: int) -> DefenseSpec:
        """Return it with so many updates that go as far, where a setting is their length.

        Those are lr, alpha and step_size.
        """
        settings = dict(self.settings)
        for name in settings.keys() & _LENGTHS:
            settings[name] = settings[name] * self.steps / steps
        return replace(self, settings=tuple({**settings, "steps": steps}.items()))

    @property
    def settings_json(self) -> str:
        """The settings as a JSON object; a fraction is a text such as "8/255"."""
        return json.dumps(dict(self.settings), default=_text)


def _text(value: object) -> str:
    assert isinstance(value, Fraction)
    return f"{value.numerator}/{value.denominator}"
