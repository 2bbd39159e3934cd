"""The cache folder: files that arrive whole, are verified, and keep one name and one content.

A file gets its final name in one step, after it is verified
(:mod:`dentbench.zoo.download.verify`). A wrong file is kept aside as ``NAME.rejected`` with the
reason beside it. One process downloads at a time. Torch-free.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from dentbench.errors import DentBenchError, FetchError, os_reason
from dentbench.paths import expanded, home
from dentbench.zoo.download.transfer import (
    Policy,
    Progress,
    SourceError,
    discard,
    download,
    is_local,
)
from dentbench.zoo.download.verify import Expected, HashFile, problem_with

Check = Callable[[Path], object]
"""Called with a complete file before it is accepted; raises a DentBenchError to refuse it."""


def default_cache() -> Path:
    """Return the cache folder: ``DENTBENCH_CACHE``, else the platform's place for caches."""
    given = os.environ.get("DENTBENCH_CACHE")
    if given:
        return expanded(given)
    if sys.platform == "darwin":
        return home() / "Library" / "Caches" / "dentbench"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home() / "AppData" / "Local") / "dentbench"
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "dentbench"


def is_offline(offline: bool = False) -> bool:
    """Return whether no connection may be made: asked for, or ``DENTBENCH_OFFLINE`` is set."""
    setting = os.environ.get("DENTBENCH_OFFLINE", "").lower()
    return offline or setting not in ("", "0", "no", "false")


def all_mirrors(mirrors: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the mirrors given, then those of ``DENTBENCH_MIRRORS`` (separated by spaces)."""
    listed = (*mirrors, *os.environ.get("DENTBENCH_MIRRORS", "").split())
    return tuple(dict.fromkeys(mirror.rstrip("/") for mirror in listed))


def fetch_file(
    sources: Sequence[str],
    destination: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    check: Check | None = None,
    unpack: Callable[[Path], None] | None = None,
    record: Path | None = None,
    hint: str = "",
    policy: Policy | None = None,
) -> Path:
    """Return ``destination``, downloaded from the first source that has the right file.

    ``sources``: URLs, local paths or ``gdrive:ID``, in order of preference. A file already there
    is verified, not fetched again. ``unpack`` may replace a complete ``.part`` by its content,
    and ``check`` refuse it by raising. ``record`` is the folder of ``hashes.json`` (the
    destination's by default); ``hint`` ends the error message.
    Raises :class:`~dentbench.errors.FetchError`; a bad file never has the final name.
    """
    expected = Expected(sha256=sha256, md5=md5, size=size)
    book = HashFile(record or destination.parent)
    job = _Job(destination, expected, book, check, unpack, progress, policy)
    if job.ready():
        return destination
    if is_offline(offline):
        sources = [source for source in sources if is_local(source)]
    if is_offline(offline) and not sources:
        state = f"is wrong ({job.reason})" if job.reason else "is not there"
        raise FetchError(
            f"{destination} {state} and offline mode allows no connection{_ending(hint)}"
        )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(destination.with_name(f".{destination.name}.lock")):
            if not job.ready(set_aside=True):
                job.run(sources, hint)
    except OSError as error:
        raise FetchError(f"cannot write {destination}: {os_reason(error)}") from error
    return destination


def _ending(hint: str) -> str:
    return f"; {hint}" if hint else ""


class _Job:
    """A file on its way into the cache; see :func:`fetch_file`."""

    def __init__(
        self,
        destination: Path,
        expected: Expected,
        record: HashFile,
        check: Check | None,
        unpack: Callable[[Path], None] | None,
        progress: Progress | None,
        policy: Policy | None,
    ) -> None:
        self.destination, self.expected, self.record = destination, expected, record
        self.check, self.unpack = check, unpack
        self.progress, self.policy = progress, policy or Policy()
        self.part = destination.with_name(destination.name + ".part")
        self.reason: str | None = None

    def ready(self, *, set_aside: bool = False) -> bool:
        """Return whether the file is there and right; a wrong file may be set aside."""
        if not self.destination.is_file():
            return False
        expected = self.record.expected(self.destination, self.expected)
        self.reason = self._refusal(self.destination, checked=expected.hashed)
        if self.reason is None:
            if not expected.hashed:
                with contextlib.suppress(OSError):  # a cache that is read-only
                    self.record.add(self.destination, "in the cache already")
            return True
        if set_aside:
            self._reject(self.destination, self.reason)
        return False

    def run(self, sources: Sequence[str], hint: str) -> None:
        """Try the sources in order; ends with the right file in place or raises."""
        reasons = []
        for source in sources:
            try:
                self._try(source)
                return
            except SourceError as error:
                reasons.append(f"from {shown(source)}: {error}")
        tried = "; ".join(reasons) or "there is no source"
        raise FetchError(f"{self.destination.name} could not be fetched {tried}{_ending(hint)}")

    def _try(self, source: str) -> None:
        for _ in range(2):
            resumed = download(
                source,
                self.part,
                name=self.destination.name,
                policy=self.policy,
                progress=self.progress,
            )
            self._open()
            reason = self._refusal(self.part)
            if reason is None:
                self._accept(source)
                return
            self._reject(self.part, reason)
            if not resumed:  # else once more, from the start
                break
        aside = self.destination.name + ".rejected"
        raise SourceError(f"a wrong file ({reason}); kept as {aside}")

    def _open(self) -> None:
        """Replace a complete ``.part`` by the wanted part of it."""
        if self.unpack is not None:
            try:
                self.unpack(self.part)
            except (OSError, EOFError, ValueError, KeyError, tarfile.TarError, zlib.error) as error:
                self._reject(self.part, f"the archive cannot be opened ({error})")
                raise SourceError(f"an archive that cannot be opened ({error})") from error

    def _refusal(self, path: Path, *, checked: bool = False) -> str | None:
        """Say why a complete file is wrong; ``checked`` spares a file identified by its hash."""
        expected = self.record.expected(self.destination, self.expected)
        reason = problem_with(path, expected)
        if reason is not None:
            return reason
        if self.check is not None and not checked:
            try:
                self.check(path)
            except DentBenchError as error:
                return str(error)
        return None

    def _accept(self, source: str) -> None:
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())
        self.part.replace(self.destination)
        discard(self.part)
        self.record.add(self.destination, shown(source))

    def _reject(self, path: Path, reason: str) -> None:
        aside = self.destination.with_name(self.destination.name + ".rejected")
        path.replace(aside)
        note = aside.with_name(aside.name + ".txt")
        note.write_text(f"Not accepted as {self.destination.name}: {reason}\n", encoding="utf-8")
        discard(self.part)


def shown(source: str) -> str:
    """Return a source as messages name it, without the credentials or the query of a URL."""
    if source.startswith("gdrive:"):
        return "Google Drive"
    address = source.split("?", 1)[0]
    scheme, mark, rest = address.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}" if mark else address
