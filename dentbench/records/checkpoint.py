"""Outcomes on disk: one atomically written file per batch and stage, so that a run resumes.

``<results>/runs/<key>/spec.json`` holds the spec; ``<stage>/<number>.npz`` holds the
outcome of a batch (see ``outcome_arrays.py``) and, where they are kept, its final points. A file is
either whole or not there.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from dentbench.errors import StoreError, os_reason
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome
from dentbench.records.outcome_arrays import Arrays, from_arrays, to_arrays
from dentbench.records.safe_files import write_atomic
from dentbench.spec.evaluation import EvalSpec, digest

Points = NDArray[np.float32]
"""Final points of a batch (B, C, H, W), in [0, 1]."""

_log = logging.getLogger(__name__)


def sha256_of(points: Points) -> str:
    """Return the SHA-256, in hexadecimal, of final points, in any memory format."""
    return hashlib.sha256(np.ascontiguousarray(points).tobytes()).hexdigest()


def run_path(results: Path, key: str) -> Path:
    """Return the folder of a run by its key."""
    return results / "runs" / key


def read_note(results: Path, key: str, name: str) -> Any:
    """Return a run's note by :meth:`RunFolder.save_note`, or None when it is not there.

    Changes nothing. Raises :class:`~dentbench.errors.StoreError` for a file that cannot be read.
    """
    path = run_path(results, key) / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def stored_outcomes(results: Path, key: str, stage: str) -> list[BatchOutcome]:
    """Return the outcomes of one stage of a run, in batch order; none where none are stored.

    Changes nothing. Raises :class:`~dentbench.errors.StoreError` for a file that cannot be read.
    """
    outcomes = []
    for path in sorted((run_path(results, key) / stage).glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as archive:
                outcomes.append(_outcome_in(archive, stage, int(path.stem)))
        except Exception as error:  # a damaged file may raise anything
            raise StoreError(
                f"{path} cannot be read ({error}); run evaluate again, and the batch is redone"
            ) from error
    return outcomes


Stamp: TypeAlias = tuple[str, int, int, int]
"""The identity of a file: path, inode, bytes, and nanoseconds of its last change."""


class RunFolder:
    """The checkpoint folder of one run; ``results`` is the results folder.

    ``read``: outcomes read before, and whether they have points, so that a file is read once.
    """

    def __init__(
        self,
        results: Path,
        spec: EvalSpec,
        read: dict[Stamp, tuple[BatchOutcome, bool]] | None = None,
    ) -> None:
        self.spec = spec
        self.path = run_path(results, spec.key())
        self._read = {} if read is None else read

    def clear(self) -> None:
        """Forget every outcome of this run."""
        try:
            shutil.rmtree(self.path, ignore_errors=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot clear {self.path}: {os_reason(error)}") from error

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Work on this run as the only process inside the ``with`` block; wait for one that does.

        A process that dies lets go. The lock file lies beside the folder and stays.
        """
        path = self.path.with_suffix(".lock")
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.warning("another process is working on run %s; waiting for it", path.stem)
                lock.acquire()
        except OSError as error:
            raise StoreError(f"cannot lock {path}: {os_reason(error)}") from error
        try:
            yield
        finally:
            lock.release()

    def load(self, stage: str, unit: int, *, with_points: bool = False) -> BatchOutcome | None:
        """Return a stored outcome, or None when it is not there.

        ``with_points``: an outcome stored without its points counts as not there. A file that
        cannot be read is kept under another name, and said so in a warning.
        """
        path = self._file(stage, unit)
        try:
            seen = path.stat()
            stamp = str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns
            file = None if stamp in self._read else path.open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {os_reason(error)}") from error
        if file is not None:
            try:
                with file, np.load(file, allow_pickle=False) as archive:
                    outcome = _outcome_in(archive, stage, unit)
                    self._read[stamp] = outcome, "points" in archive.files
            except Exception as error:  # a damaged file may raise anything
                _set_aside(path, error)
                return None
        outcome, has_points = self._read[stamp]
        return None if with_points and not has_points else outcome

    def load_points(self, stage: str, unit: int) -> Points:
        """Return the points of an outcome that :meth:`load` found with its points.

        Raises :class:`~dentbench.errors.StoreError` when they turn out to be corrupt.
        """
        path = self._file(stage, unit)
        try:
            with np.load(path, allow_pickle=False) as archive:
                points: Points = archive["points"]
        except Exception as error:
            _set_aside(path, error)
            raise StoreError(f"{path} is corrupt; run again, and the batch is redone") from error
        return points

    def save(self, outcome: BatchOutcome, points: Points | None) -> None:
        """Write an outcome, and its points if given, in one atomic step.

        An outcome of other code is kept beside it, as "NNNNN.superseded".
        """
        arrays: dict[str, Any] = to_arrays(outcome)
        if points is not None:
            arrays["points"] = points
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        path = self._file(outcome.stage, outcome.index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {path.parent}: {os_reason(error)}") from error
        self._describe()
        former = self.load(outcome.stage, outcome.index)
        if former is not None and former.versions != outcome.versions:
            path.replace(path.with_suffix(".superseded"))
        write_atomic(path, buffer.getvalue())

    def drop_points(self, outcome: BatchOutcome) -> None:
        """Keep a stored outcome without its points."""
        if self.load(outcome.stage, outcome.index, with_points=True) is not None:
            self.save(outcome, None)

    def stages(self, chosen: Callable[[str], bool]) -> list[str]:
        """Return the stages chosen by their names that have left something, in order."""
        folders = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(folder.name for folder in folders if folder.is_dir() and chosen(folder.name))

    def has(self, name: str) -> bool:
        """Return whether a file of this name is in the folder."""
        return (self.path / name).exists()

    def load_note(self, name: str, like: object = None) -> Any:
        """Return the note of a name by :meth:`save_note`, or None when it is not there.

        ``like``: a value of the note's type, a mapping with its keys. A file that cannot be read,
        or holds something else, is kept under another name, and said so in a warning.
        """
        path = self.path / f"{name}.json"
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            if like is not None and not _is_like(note, like):
                raise ValueError("it holds no such note")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _set_aside(path, error)
            return None
        return note

    def drop_note(self, name: str) -> None:
        """Delete the note of a name."""
        (self.path / f"{name}.json").unlink(missing_ok=True)

    def save_note(self, name: str, value: object) -> None:
        """Write plain values as JSON beside the outcomes, in one atomic step.

        ``name`` may have a folder, such as "natural/00000".
        """
        path = self.path / f"{name}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {path.parent}: {os_reason(error)}") from error
        write_atomic(path, json.dumps(value, indent=1) + "\n")

    def points(self, stage: str, unit: int) -> Points | None:
        """Return the points kept of a stored outcome, or None when there are none."""
        kept = self.load(stage, unit, with_points=True)
        return None if kept is None else self.load_points(stage, unit)

    def _describe(self) -> None:
        path = self.path / "spec.json"
        if not path.exists():
            spec = self.spec.static if self.spec.defense is None else self.spec
            text = json.dumps(asdict(spec), indent=1, default=str) + "\n"
            write_atomic(path, text)

    def _file(self, stage: str, unit: int) -> Path:
        folder = self.path
        if self.spec.defense is None and stage not in (NATURAL, PUBLISHED):
            # A counterpart of a defense's protocol, which has settings; the static key has none.
            folder /= f"protocols-{digest(asdict(self.spec.protocols))[:8]}"
        return folder / stage / f"{unit:05d}.npz"


def _is_like(note: object, like: object) -> bool:
    alike = isinstance(note, type(like))
    return alike and not (isinstance(like, dict) and like.keys() - dict(note).keys())  # type: ignore[call-overload]


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_suffix(".corrupt")
    path.replace(aside)
    _log.warning("%s is corrupt (%s); kept as %s, to be redone", path, error, aside.name)


def _outcome_in(archive: Arrays, stage: str, unit: int) -> BatchOutcome:
    outcome = from_arrays(archive)
    if (outcome.stage, outcome.index) != (stage, unit):
        raise ValueError(f"it holds {outcome.stage} {outcome.index}")
    return outcome
