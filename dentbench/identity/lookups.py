"""Follow lookups by a text: names, variables of the environment, files of data."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import CodeType, MappingProxyType
from typing import Any, Final

from dentbench.identity.contents import contents_sha256

BY_NAME: Final = frozenset(
    {
        *("getattr", "globals", "vars", "eval", "exec", "attrgetter", "__dict__", "modules"),
        *("f_globals", "__globals__", "iter_modules", "walk_packages", "__path__"),
    }
)
"""Names in code that may look up whatever a text names."""

OWN_MODULE: Final = frozenset({"globals", "vars", "eval", "exec", "f_globals", "__globals__"})
"""Those of them that look in the module they are called in."""

ENVIRONMENT: Final = frozenset({"environ", "environb", "getenv", "getenvb"})
"""Names in code that read the environment."""

PLACES: Final[Mapping[str, Callable[[], str | Path]]] = MappingProxyType(
    {
        "home": Path.home,
        "expanduser": Path.home,
        "HOME": Path.home,
        "gettempdir": tempfile.gettempdir,
    }
)
"""Folders of the machine, by names and texts in code that ask for them."""

_UP: Final = frozenset({"parent", "parents", "dirname"})
"""Names in code that ask for the folder above another."""

_LISTS: Final = frozenset({"iterdir", "listdir", "scandir", "walk", "glob", "iglob", "rglob"})
"""Names in code that ask for the files of a folder."""

KNOWN_NAMES: Final = PLACES.keys() | _UP | _LISTS | {"__file__"}
"""Names in code that say where it finds files."""

_DATA: Final = frozenset(
    {
        *(".npy", ".npz", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".onnx", ".h5", ".mat"),
        *(".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".txt", ".csv", ".pkl", ".pickle"),
        ".parquet",
    }
)
"""The suffixes of files whose contents count where a single text names them."""

_LONGEST: Final = 1024
"""A text of at least this length names nothing."""

_LONGEST_NAME: Final = 200
_LONGEST_SUFFIX: Final = 12
"""Texts of at least these lengths are no part of a file's name."""

_MOST: Final = 64
"""The number of folders in which files are searched."""

_MOST_FILES: Final = 1024
"""The number of files of a folder, and of those below it, that are looked at."""

_WRITTEN: Final = frozenset({".log", ".pyc"})
"""The suffixes of files that running code writes, not reads."""

_RESULTS: Final = "results.csv"
"""The file in a folder that DentBench writes to."""

_FIELD: Final = re.compile(r"\{[^{}]*\}|%[-#0 +]*\d*(?:\.\d+)?[sdifgrx]")
"""Where a text leaves room for values."""

_TOO_WIDE: Final = re.compile(r"\W*$|.*\*\*|.*\.py$")
"""Patterns of files that match about everything, or code."""

_NAME: Final = re.compile(r"[^\W\d]\w*")


def texts_in(code: CodeType) -> Iterator[str]:
    """Yield the texts that a function's code holds, those inside tuples included."""
    waiting: list[Any] = list(code.co_consts)
    for constant in waiting:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            waiting += constant


def names_in(texts: Iterable[str], names: Collection[str]) -> set[str]:
    """Return the names that code with such ``names`` may look up because its texts hold them."""
    if not BY_NAME.intersection(names):
        return set()
    return {word for text in texts if len(text) < _LONGEST for word in _NAME.findall(text)}


def environment_in(texts: Iterable[str], names: Collection[str]) -> list[str]:
    """Return the variables of the environment that code with such ``names`` reads, with values."""
    if not ENVIRONMENT.intersection(names):
        return []
    variables = sorted({text for text in texts if _NAME.fullmatch(text)})
    return [f"{variable}={os.environ.get(variable)!r}" for variable in variables]


def environment_named(texts: Collection[str]) -> list[str]:
    """Return the variables of the environment that texts name, with their values.

    A text names a variable as it is, begins it up to a "_", or is a part of it beside other texts
    and numbers, as code puts names together.
    """
    begins = tuple(text for text in texts if len(text) > 2 and text.endswith("_"))
    parts = frozenset(text for text in texts if 1 < len(text) < _LONGEST_NAME or text == "_")
    named = (
        name
        for name in os.environ
        if name in texts or (begins and name.startswith(begins)) or is_composed(name, parts)
    )
    return [f"{name}={os.environ[name]!r}" for name in sorted(named)]


def is_composed(name: str, parts: Collection[str]) -> bool:
    """Return whether a name is parts and numbers, one after the other, with a part of three."""
    if len(name) >= _LONGEST_NAME:
        return False
    reached: dict[int, bool] = {0: False}  # how far, and whether by a part of three or more
    for end in range(1, len(name) + 1):
        ways = [
            long or (len(piece) > 2 and not piece.isdigit())
            for start, long in reached.items()
            if (piece := name[start:end]) in parts or piece.isdigit()
        ]
        if ways:
            reached[end] = any(ways)
    return reached.get(len(name), False)


class Folders:
    """The folders of a user's code: its place does not change its answers, its data do.

    ``texts``: all that were written; ``names``: those of :data:`KNOWN_NAMES` that code has.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._seen: dict[str, Path | None] = {}
        self._stems: set[str] = set()
        self.texts: set[str] = set()

    def add(self, module: str) -> None:
        """Take the folder that a module is imported from."""
        if module not in self._seen:
            known = sys.modules.get(module)
            file = getattr(known, "__file__", None)
            depth = module.count(".") + hasattr(known, "__path__")
            parents = Path(file).absolute().parents if file else ()
            self._seen[module] = parents[depth] if depth < len(parents) else None
            self._stems |= {Path(file).stem} if file else set()

    def written(self, text: str) -> tuple[str, ...]:
        """Return a text, below one of the folders as seen from there, with the data it names."""
        if not 0 < len(text) < _LONGEST or "\n" in text or "\0" in text:
            return (text,)
        folders = dict.fromkeys(filter(None, self._seen.values()))
        path = Path(text)
        within = next(
            (folder for folder in folders if folder == path or folder in path.parents), None
        )
        shown = text if within is None else f"./{path.relative_to(within)}"
        self.texts.add(shown)
        if path.suffix not in _DATA:
            return (shown,)
        for folder in (*folders, Path.cwd()):
            for file in (folder / path, folder / text.lstrip("/")):  # code may put a folder before
                if file.is_file():
                    return shown, contents_sha256(file)
        return (shown,)

    def data(self) -> Iterator[str]:
        """Yield the files that several texts name together, and their hashes.

        A folder and a name in it, a name and its suffix; a name without any suffix too, those that
        a pattern matches, those whose names are put together of texts and numbers, and all in a
        folder that code lists. They are looked for beside a user's code and in the working folder,
        where there is such code.
        """
        folders = [*dict.fromkeys(filter(None, self._seen.values()))]
        if not folders:
            return
        named = [text for text in self.texts if _is_name(text)]
        texts = sorted({text.lstrip("/") for text in named} - {""})
        given = self._places(folders, {*named})
        places = _with_named_folders(given, texts)
        suffixes = [text for text in texts if text[0] == "." and len(text) < _LONGEST_SUFFIX]
        stems = [*texts, *(sorted(self._stems) if "__file__" in self.names else ())]
        names = [*texts, *(text + suffix for suffix in suffixes for text in stems)]
        # In a place of their own; what is at home is so under the same name for every user.
        elsewhere = {text: _expanded(text) for text in sorted(named) if text[0] in "/~$"}
        inner = {*folders, Path.cwd(), *places[len(given) :]}
        seen: set[Path] = set()
        for place in places:
            inside = self._inside(place, texts, whole=place not in given) if place in inner else ()
            for name in (*names, *inside, *elsewhere):
                file = place / elsewhere.get(name, name)
                if file.suffix not in _WRITTEN and file not in seen and _is(file, Path.is_file):
                    seen.add(file)
                    yield name
                    yield contents_sha256(file)

    def _places(self, folders: Iterable[Path], named: Collection[str]) -> list[Path]:
        """Return the folders in which code may look: beside it, at work, above it, at home."""
        asked = sorted(PLACES.keys() & (self.names | {*named}))
        places = [*folders, Path.cwd(), *(Path(PLACES[name]()) for name in asked)]
        if self.names & _UP:
            shared = {Path.home(), Path(tempfile.gettempdir())}
            above = [up for folder in folders for up in [*folder.parents][:2]]
            places += [up for up in above if up.parent != up and up not in shared]
        return [*dict.fromkeys(places)]

    def _inside(self, place: Path, texts: Collection[str], *, whole: bool) -> Iterator[str]:
        """Yield the names of files in a folder that patterns match or that are made of texts.

        Where code lists folders, all of them: of a ``whole`` folder, which a text names.
        """
        if whole and self.names & _LISTS:
            yield from _files_below(place, deep=bool(self.names & {"rglob", "walk"}))
        parts = {part for text in texts for part in _FIELD.split(text) if _is_part(part)}
        yield from (name for name in _files_below(place) if is_composed(name, parts))
        for pattern in (text for text in texts if "*" in text):
            narrow = pattern.removeprefix("**/")
            if not _TOO_WIDE.match(narrow):
                deep = narrow != pattern or "rglob" in self.names
                yield from _matching(place, narrow, deep=deep)


def _with_named_folders(places: Iterable[Path], texts: Iterable[str]) -> list[Path]:
    """Return folders, the folders in them that texts name, and so on."""
    known = [*places]
    for place in known:  # which grows: a folder may be in a folder
        inside = (place / text for text in texts if text.strip("./"))
        known += [one for one in inside if _is(one, Path.is_dir) and one not in known]
        if len(known) > _MOST:
            break
    return known[:_MOST]


def _matching(place: Path, pattern: str, *, deep: bool) -> Iterator[str]:
    """Yield the names of files in a folder that a pattern matches; ``deep``: and below it."""
    if deep:
        found = _files_below(place, deep=True)
        yield from (name for name in found if fnmatch(Path(name).name, pattern))
    with contextlib.suppress(OSError, ValueError, NotImplementedError):  # it is no pattern
        yield from sorted(str(file.relative_to(place)) for file in place.glob(pattern))


def _files_below(place: Path, *, deep: bool = False) -> Iterator[str]:
    """Yield the names of a folder's files, in order; ``deep``: and those of the folders in it.

    Hidden ones, code and what DentBench wrote are left out.
    """
    count = 0
    for folder, folders, files in os.walk(place):
        wanted = deep and _RESULTS not in files
        folders[:] = sorted(name for name in folders if wanted and name[0] not in "._")
        for name in sorted(files) if _RESULTS not in files else ():
            if name[0] != "." and not name.endswith((".py", *_WRITTEN)):
                count += 1
                yield str((Path(folder) / name).relative_to(place))
            if count >= _MOST_FILES:
                return


def _is_part(text: str) -> bool:
    """Return whether a text may be a part of a file's name beside others."""
    return len(text) > 1 or text in ("_", "-", ".")


def _expanded(text: str) -> str:
    """Return a file's name with the user's own folder, and variables, in their places."""
    path = Path(os.path.expandvars(text))
    with contextlib.suppress(RuntimeError):  # there is no such folder
        path = path.expanduser()
    return str(path)


def _is_name(text: str) -> bool:
    return 0 < len(text) < _LONGEST_NAME and text.isprintable()


def _is(path: Path, what: Callable[[Path], bool]) -> bool:
    """Return whether a path is a file, or a folder; one that cannot be is none."""
    try:
        return what(path)
    except OSError:
        return False
