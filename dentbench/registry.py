"""Names, aliases and suggestions: one canonical name for everything that a user can name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from dentbench.errors import UnknownNameError
from dentbench.paths import expanded
from dentbench.validation import nearest

T = TypeVar("T")

SHOWN = 20
"""How many names an error message lists at most."""


class Registry(Mapping[str, T], Generic[T]):
    """A mapping of canonical names to values, with case-insensitive names and aliases.

    ``kind`` ("model", "attack", ...) is an entry's name in error messages. Registering a name
    or an alias twice raises ``ValueError``; looking up an unknown one raises
    :class:`~dentbench.errors.UnknownNameError` with the nearest names. ``has_code``: whether
    users may name code of their own instead, as module:callable; ``listed_by``: the command that
    lists all names.
    """

    def __init__(self, kind: str, *, has_code: bool = False, listed_by: str = "") -> None:
        self.kind = kind
        self.has_code = has_code
        self.listed_by = listed_by
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
        if file := _file_meant(name) if self.has_code else None:
            return (
                f"{name} is no {self.kind}'s name; for your own in {file} write {file}:CALLABLE"
                if expanded(file).is_file()
                else f"there is no file {file}"
            )
        near = nearest(name, self._canonical)
        names = list(dict.fromkeys(self._canonical[match] for match in near))[:3]
        known = [*self][:SHOWN]
        more = f" and {len(self) - SHOWN} more" if len(self) > SHOWN else ""
        hint = (
            f"did you mean {' or '.join(names)}?" if names else f"known: {', '.join(known)}{more}"
        )
        every = f" (all of them: {self.listed_by})" if self.listed_by else ""
        return f"unknown {self.kind} {name!r}; {hint}{every}"

    def __getitem__(self, name: str) -> T:
        return self._values[self.canonical(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._canonical

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _file_meant(name: str) -> str | None:
    """Return the source file that a name without a callable means: it is there, or ends so."""
    stem = name.removesuffix(".py")
    files = (f"{stem}.py", f"{stem.rpartition('.')[0]}.py")
    there = (file for file in files if expanded(file).is_file())
    return next(there, name if name.endswith(".py") else None)
