"""Code of a user: where it lies, and ``module:callable`` imported as its files are now."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from dentbench.containment import contained
from dentbench.errors import SpecError
from dentbench.identity.source_meaning import meaning_sha256
from dentbench.paths import expanded

_ALWAYS: Final = frozenset({"torch", "numpy", "dentbench", "builtins"})
"""Imported before any code of a user, so no file of a user can have these names."""

_KNOWN: Final = _ALWAYS | {
    *("torchvision", "torchaudio", "timm", "robustbench", "pyautoattack", "autoattack"),
    *("scipy", "PIL", "cv2", "sklearn", "skimage", "pandas", "einops", "matplotlib"),
}
"""Libraries that are known by their names; a record says which versions of them were used."""

_imported: dict[str, str] = {}
"""The hash of the sources that each module was imported with."""


def is_library(module: str) -> bool:
    """Return whether a module, by its name, belongs to Python or to a library that is known.

    A file of a user with the name of one of them does not.
    """
    top = module.partition(".")[0]
    if top in _ALWAYS:
        return True
    if top in sys.stdlib_module_names:
        origin = _origin(top)
        return origin is None or (_stdlib() in origin.parents and not _installed(origin))
    return top in _KNOWN and is_installed(top)


def is_installed(module: str) -> bool:
    """Return whether a module, by its name, lies where packages are installed."""
    origin = _origin(module.partition(".")[0])
    return origin is not None and _installed(origin)


def _installed(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _origin(top: str) -> Path | None:
    """Return the file of an outermost module; None for a module without a file, as a built-in."""
    file = getattr(sys.modules.get(top), "__file__", None)
    if top not in sys.modules:
        with contextlib.suppress(ImportError, ValueError):
            there = importlib.util.find_spec(top)
            file = there.origin if there is not None and there.has_location else None
    return Path(file).resolve() if file else None


@cache
def _stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"]).resolve()


def load(text: str) -> tuple[Any, tuple[Path, ...]]:
    """Return the object at ``module:name`` or ``path/to/file.py:name``, and its source files.

    The working folder comes first, or the file's own. A module that was imported from other sources
    than those that are there now is imported anew. Raises whatever the module raises; its
    ``sys.exit`` is ``UserExitError``.
    """
    module_name, _, attribute = text.rpartition(":")
    folder = Path.cwd()
    if module_name.endswith(".py"):
        file = expanded(module_name).resolve()
        if not file.is_file():
            raise ImportError(f"there is no file {module_name}")
        folder, module_name = file.parent, file.stem
    with contained(), _first_on_path(folder):
        try:
            module = _fresh(module_name)
        except ModuleNotFoundError as error:
            if error.name != module_name.partition(".")[0]:
                raise  # of a module that the user's imports
            raise ImportError(
                f"there is no module {error.name} in the working folder or installed; a file "
                f"elsewhere is path/to/{error.name}.py:{attribute}"
            ) from error
        target: Any = module
        for part in attribute.split("."):
            target = getattr(target, part)
    return target, files_of(module)


def loaded_again(text: str) -> Any:
    """Return the object ``module:name`` of a second import of its module, which is not kept.

    Where the two differ, it is by values that change at every import, as times do. Call it after
    :func:`load`. Raises whatever the module raises.
    """
    module_name, _, attribute = text.rpartition(":")
    if module_name.endswith(".py"):
        module_name = Path(module_name).stem
    there = sys.modules[module_name].__spec__
    assert there is not None and there.loader is not None
    target: Any = importlib.util.module_from_spec(there)
    folder = Path(there.origin or "").parent
    with contained(), _first_on_path(folder):
        there.loader.exec_module(target)
        for part in attribute.split("."):
            target = getattr(target, part)
    return target


def load_callable(kind: str, text: str, wanted: str) -> tuple[Callable[..., Any], tuple[Path, ...]]:
    """Return the callable that ``module:name`` stands for, and the source files of its module.

    ``kind``: of object, such as "defense"; ``wanted``: the advice in an error, in words. Raises
    :class:`~dentbench.errors.SpecError` for a callable that cannot be imported.
    """
    try:
        target, files = load(text)
    except Exception as error:  # whatever a user's module raises when it is imported
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SpecError(
            f"{kind} {text!r} cannot be made: it cannot be imported ({reason[0]})"
        ) from error
    if not callable(target):
        raise SpecError(
            f"{kind} {text!r} is not callable but of type {type(target).__name__}; name {wanted}"
        )
    return target, files


def files_of(module: ModuleType) -> tuple[Path, ...]:
    """Return the source files of a user's module; none for a library's."""
    file = getattr(module, "__file__", None)
    return source_files(Path(file)) if file and not is_library(module.__name__) else ()


def source_files(path: Path) -> tuple[Path, ...]:
    """Return a module's file and the files that it imports from beside it, and they in turn.

    For a package, or a module inside a package, all modules of the outermost package. Imports from
    elsewhere, or by other means than an import statement, are not followed.
    """
    files: set[Path] = set()
    packages: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file in files or file.suffix != ".py" or not file.is_file():
            continue
        files.add(file)
        if (file.parent / "__init__.py").is_file():
            package = file.parent.parent if _inside(file.parent) else file.parent
            if package not in packages:
                packages.add(package)
                waiting += package.rglob("*.py")
            continue
        for name in _imports(file.read_bytes()) - _ALWAYS:
            waiting += [file.parent / f"{name}.py", file.parent / name / "__init__.py"]
    return tuple(sorted(files))


def _inside(folder: Path) -> bool:
    return (folder.parent / "__init__.py").is_file()


_STATEMENTS: Final = (ast.stmt, ast.excepthandler, ast.match_case)
"""The nodes that hold statements; an expression holds none, so no import either."""


@lru_cache(maxsize=1 << 12)
def _imports(source: bytes) -> frozenset[str]:
    """Return the outermost names that a source imports; none where it is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    names: set[str] = set()
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, _STATEMENTS)]
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return frozenset(names)


def sha256_of(files: Iterable[Path]) -> str:
    """Return the SHA-256 of sources: of their names and what they do, wherever they are."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\n{meaning_sha256(file.read_bytes())}\n".encode())
    return whole.hexdigest()


def _fresh(name: str) -> ModuleType:
    """Import a module, anew if its source changed since its import in this process."""
    importlib.invalidate_caches()
    module = sys.modules.get(name)
    if module is None or _moved(name.partition(".")[0]):
        module = _reimport(name)
    if not getattr(module, "__file__", None):
        raise ImportError(f"{name} has no source file")
    digest = sha256_of(files_of(module))
    if _imported.setdefault(name, digest) != digest:
        module = _reimport(name)
        _imported[name] = digest
    return module


def _moved(top: str) -> bool:
    """Return whether a module's outermost name now stands for another file."""
    there = PathFinder.find_spec(top)
    return there is not None and there.origin != getattr(sys.modules.get(top), "__file__", None)


def _reimport(name: str) -> ModuleType:
    """Import a module and the modules beside it, forgetting earlier imports."""
    if not is_library(name):
        there = PathFinder.find_spec(name.partition(".")[0])
        files = source_files(Path(there.origin)) if there is not None and there.origin else ()
        # By name too: a module of the same name in another folder is another module.
        beside = {name.partition(".")[0], *(file.stem for file in files)}
        inodes = {_inode(file) for file in files} - {None}
        for other, loaded in list(sys.modules.items()):
            known = _inode(getattr(loaded, "__file__", None) or "") in inodes
            if known or (other.partition(".")[0] in beside and not is_library(other)):
                del sys.modules[other]
    _imported.pop(name, None)
    return importlib.import_module(name)


def _inode(file: Path | str) -> tuple[int, int] | None:
    """Return a key that all names of one file share; None where there is none."""
    try:
        seen = Path(file).stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def working_folder_first() -> AbstractContextManager[None]:
    """Import from the working folder, and leave no compiled file there."""
    return _first_on_path(Path.cwd())


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Import from a folder before any other, and leave no compiled file there.

    Another folder than the working one stays on the path, behind all others, for the processes
    that are to import the same.
    """
    writes = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        if folder != Path.cwd() and str(folder) not in sys.path:
            sys.path.append(str(folder))
