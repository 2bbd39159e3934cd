"""User-defined defenses: ``module:callable`` from the working folder, or an object."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dentbench.attacks.catalogue import PROTOCOLS, PUBLISHED
from dentbench.attacks.protocol_cards import is_given
from dentbench.errors import SpecError
from dentbench.identity.as_left import before_runs
from dentbench.identity.fingerprint import fingerprint
from dentbench.identity.imported_state import imported_state
from dentbench.identity.user_code import load_callable, loaded_again, sha256_of
from dentbench.spec.defense import DefenseSpec
from dentbench.spec.evaluation import digest


def spec_of_factory(
    text: str, settings: Mapping[str, Any] | None = None, title: str = ""
) -> DefenseSpec:
    """Return the spec of ``module:callable``, which is imported: the working folder comes first.

    ``settings`` are handed to the callable by name; texts that are numbers, or true or false,
    become so. The callable may have attributes: ``separable = True`` says that its defense answers
    each image on its own, ``random = True`` that its answers are random, ``name`` how tables call
    it, unless ``title`` does, and ``published_protocol`` by which protocol its paper attacked it.
    Raises :class:`~dentbench.errors.SpecError` for a callable that cannot be imported.
    """
    factory, files = _load(text)
    values = {name: _plain(value) for name, value in (settings or {}).items()}
    return DefenseSpec(
        name=text,
        settings=tuple(values.items()),
        sha256=digest([sha256_of(files), imported_state(factory, text)]),
        source=sha256_of(files),
        separable=getattr(factory, "separable", False) is True,
        random=getattr(factory, "random", False) is True,
        title=title or _title_of(factory),
        published_protocol=_published_protocol(factory, text),
    )


def spec_of_object(defense: object) -> DefenseSpec:
    """Return the spec of an object given from Python; a type makes the defense.

    Raises :class:`~dentbench.errors.ModelError` for an object that holds something without a stable
    writing: see :func:`dentbench.identity.fingerprint.fingerprint`.
    """
    kind = defense if isinstance(defense, type) else type(defense)
    named = defense if hasattr(defense, "__qualname__") else kind
    name = str(getattr(named, "__qualname__", kind.__qualname__))
    return DefenseSpec(
        name=name,
        sha256=before_runs(defense, fingerprint(defense)),
        separable=getattr(defense, "separable", False) is True,
        random=getattr(defense, "random", False) is True,
        title=_title_of(defense),
        published_protocol=_published_protocol(defense, name),
    )


def _title_of(defense: object) -> str:
    name = getattr(defense, "name", "")
    return name.strip() if isinstance(name, str) else ""


def load_factory(spec: DefenseSpec) -> Callable[..., Any]:
    """Return the callable that a spec of :func:`spec_of_factory` names."""
    factory, files = _load(spec.name)
    if sha256_of(files) != spec.source:
        raise SpecError(f"the source of defense {spec.name} was changed; run the command again")
    return factory


def imported_twice(spec: DefenseSpec) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the callable that a spec names, and that of a second import of its module."""
    factory = load_factory(spec)
    try:
        return factory, loaded_again(spec.name)
    except Exception:  # whatever a user's module raises when it is imported once more
        return factory, factory


def _load(text: str) -> tuple[Callable[..., Any], tuple[Path, ...]]:
    wanted = "a callable that makes the defense from the network"
    return load_callable("defense", text, wanted)


def _published_protocol(defense: object, name: str) -> str:
    """Return the protocol that a defense declares as that of its own paper."""
    declared = getattr(defense, "published_protocol", PUBLISHED)
    if not isinstance(declared, str) or is_given(declared):
        raise SpecError(
            f"published_protocol of defense {name} is {declared!r}; give the name of a built-in "
            'protocol, such as "transfer"'
        )
    return PROTOCOLS.canonical(declared)


def _plain(value: Any) -> Any:
    """Return the value that a text means: a number, true or false, else the text."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value
