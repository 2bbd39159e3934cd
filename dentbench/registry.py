"""Names, aliases and suggestions: one canonical name for everything that a user can name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from dentbench.errors import UnknownNameError

T = TypeVar("T")

SHOWN = 20
"""How many names an error message lists at most."""


class Registry(Mapping[str, T], Generic[T]):
    """A mapping of canonical names to values, with case-insensitive names and aliases.

    ``kind`` ("model", "attack", ...) is an entry's name in error messages. Registering a name
    or an alias twice raises ``ValueError``; looking up an unknown one raises
    :class:`~dentbench.errors.UnknownNameError` with the nearest names.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._values: dict[str, T] = {}
        self._canonical: dict[str, str] = {}

    def add(self, name: str, value: T, aliases: tuple[str, ...] = ()) -> T:
        """Register ``value`` under ``name`` and ``aliases``; a collision raises ``ValueError``."""
        for known_as in (name, *aliases):
            if known_as.lower() in self._canonical:
                raise ValueError(f"{self.kind} name {known_as!r} is registered twice")
            self._canonical[known_as.lower()] = name
        self._values[name] = value
        return value

    def canonical(self, name: str) -> str:
        """Return the canonical form of a name or alias, or raise with suggestions."""
        try:
            return self._canonical[name.lower()]
        except KeyError:
            raise UnknownNameError(self._unknown(name)) from None

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name.lower(), self._canonical, n=3, cutoff=0.5)
        names = list(dict.fromkeys(self._canonical[match] for match in near))
        if names:
            return f"unknown {self.kind} {name!r}; did you mean {' or '.join(names)}?"
        known = [*self][:SHOWN]
        more = f" and {len(self) - SHOWN} more" if len(self) > SHOWN else ""
        return f"unknown {self.kind} {name!r}; known: {', '.join(known)}{more}"

    def __getitem__(self, name: str) -> T:
        return self._values[self.canonical(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._canonical

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
