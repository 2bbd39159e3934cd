"""Defenses of one's own: ``module:callable`` from the working folder, or an object."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from dentbench.defenses.source_hash import fingerprint, sha256_of, source_files
from dentbench.errors import SpecError
from dentbench.spec.defense import DefenseSpec

_imported: dict[str, str] = {}
"""The hash of the sources that each module was imported with."""


def spec_of_factory(text: str, settings: Mapping[str, Any] | None = None) -> DefenseSpec:
    """Return the spec of ``module:callable``, which is imported: the working folder comes first.

    ``settings`` are handed to the callable by name; texts that are numbers, or true or false,
    become so. The callable's attribute ``separable = True`` says that its defense answers each
    image on its own. Raises :class:`~dentbench.errors.SpecError` for one that cannot be had.
    """
    factory, files = _load(text)
    values = {name: _plain(value) for name, value in (settings or {}).items()}
    return DefenseSpec(
        name=text,
        settings=tuple(values.items()),
        sha256=sha256_of(files),
        separable=getattr(factory, "separable", False) is True,
    )


def spec_of_object(defense: object) -> DefenseSpec:
    """Return the spec of an object given from Python; a type is what makes the defense."""
    kind = defense if isinstance(defense, type) else type(defense)
    named = defense if hasattr(defense, "__qualname__") else kind
    return DefenseSpec(
        name=str(getattr(named, "__qualname__", kind.__qualname__)),
        sha256=fingerprint(defense),
        separable=getattr(defense, "separable", False) is True,
    )


def load_factory(spec: DefenseSpec) -> Callable[..., Any]:
    """Return the callable that a spec of :func:`spec_of_factory` names."""
    factory, files = _load(spec.name)
    if sha256_of(files) != spec.sha256:
        raise SpecError(f"the source of defense {spec.name} was changed; run the command again")
    return factory


def _load(text: str) -> tuple[Callable[..., Any], tuple[Path, ...]]:
    module_name, _, attribute = text.partition(":")
    try:
        with _working_folder_first():
            module = _fresh(module_name)
            found: Any = module
            for part in attribute.split("."):
                found = getattr(found, part)
    except Exception as error:  # whatever a module of one's own raises when it is imported
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SpecError(f"defense {text!r} cannot be imported ({reason[0]})") from error
    if not callable(found):
        raise SpecError(
            f"defense {text!r} is not callable but of type {type(found).__name__}; name what "
            "returns the defense when it is called with the network"
        )
    return found, source_files(Path(module.__file__)) if module.__file__ else ()


def _fresh(name: str) -> Any:
    """Import a module, anew if its source is not what it was imported from in this process."""
    importlib.invalidate_caches()
    module = sys.modules.get(name)
    if module is None or _moved(name.partition(".")[0]):
        module = _reimport(name)
    if not getattr(module, "__file__", None):
        raise ImportError(f"{name} has no source file")
    digest = sha256_of(source_files(Path(str(module.__file__))))
    if _imported.setdefault(name, digest) != digest:
        module = _reimport(name)
        _imported[name] = digest
    return module


def _moved(top: str) -> bool:
    """Return whether a module's outermost name now stands for another file."""
    there = PathFinder.find_spec(top)
    return there is not None and there.origin != getattr(sys.modules.get(top), "__file__", None)


def _reimport(name: str) -> ModuleType:
    """Import a module and what lies beside it, forgetting what was imported before."""
    there = PathFinder.find_spec(name.partition(".")[0])
    files = source_files(Path(there.origin)) if there is not None and there.origin else ()
    for other, loaded in list(sys.modules.items()):
        known = Path(getattr(loaded, "__file__", None) or "").resolve()
        if known in files or other == name:
            del sys.modules[other]
    _imported.pop(name, None)
    return importlib.import_module(name)


@contextlib.contextmanager
def _working_folder_first() -> Iterator[None]:
    """Import from the working folder, and leave no compiled file there."""
    folder, writes = str(Path.cwd()), sys.dont_write_bytecode
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


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
