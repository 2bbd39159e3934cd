"""Verify a file: its size, its hash, and the record of first downloads.

Where nobody published a hash, the first complete download is recorded in ``hashes.json`` and later
ones must equal it. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from dentbench.errors import FetchError
from dentbench.zoo.download.transfer import CHUNK, is_page, page_words

RECORD: Final = "hashes.json"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The facts expected of a file's content; hashes in lower-case hexadecimal, size in bytes."""

    sha256: str | None = None
    md5: str | None = None
    size: int | None = None

    @property
    def hashed(self) -> bool:
        """Whether a hash pins the content."""
        return self.sha256 is not None or self.md5 is not None


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Return a file's hash in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def problem_with(path: Path, expected: Expected) -> str | None:
    """Return a file's fault in words, or None where it is as expected."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(CHUNK)
    if size == 0:
        return "it is empty"
    if is_page(head):
        return f"it is {page_words(head)}"
    if expected.size is not None and size != expected.size:
        return f"it has {size:,} bytes instead of {expected.size:,}"
    for algorithm, right in (("sha256", expected.sha256), ("md5", expected.md5)):
        if right is not None:
            actual = file_hash(path, algorithm)
            if actual != right.lower():
                return f"its {algorithm} is {actual[:12]}..., not {right[:12].lower()}..."
    return None


class HashFile:
    """The hashes of first downloads: ``hashes.json`` in the cache folder, written atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RECORD

    def read(self) -> dict[str, Any]:
        """Return all entries: path in the cache -> sha256, size, source and time."""
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise FetchError(
                f"the record of hashes {self.path} cannot be read ({error}); "
                "repair it, or remove it to record the cached files anew"
            ) from error
        return entries if isinstance(entries, dict) else {}

    def expected(self, path: Path, expected: Expected) -> Expected:
        """Return the expected facts of a cached file: as published, else as recorded."""
        entry = self.read().get(self._key(path)) if not expected.hashed else None
        if not isinstance(entry, Mapping):
            return expected
        return Expected(sha256=entry.get("sha256"), size=entry.get("size"))

    def add(self, path: Path, source: str) -> None:
        """Record a verified file; an earlier record of it stays."""
        entry = {
            "sha256": file_hash(path),
            "size": path.stat().st_size,
            "source": source,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with self._lock():
            entries = self.read()
            if self._key(path) not in entries:
                self._write(entries | {self._key(path): entry})

    def forget(self, path: Path) -> None:
        """Remove a file's entry, so that the next download of it is recorded anew."""
        with self._lock():
            entries = self.read()
            if entries.pop(self._key(path), None) is not None:
                self._write(entries)

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_name(f".{RECORD}.lock"))

    def _write(self, entries: Mapping[str, Any]) -> None:
        temporary = self.path.with_name(f".{RECORD}.{os.getpid()}")
        temporary.write_text(json.dumps(entries, indent=1, sort_keys=True), encoding="utf-8")
        temporary.replace(self.path)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
