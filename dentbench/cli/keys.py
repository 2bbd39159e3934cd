"""Keys of records on the command line: any beginning of a key, "latest", and their completion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dentbench.errors import DentBenchError, StoreError
from dentbench.validation import suggestion

if TYPE_CHECKING:
    from dentbench.records.outcome import Record

SHOWN: Final = 5
"""How many of several keys a refusal names, the newest first."""

HOW_TO_START: Final = "run dentbench evaluate first, or name another folder with --results"

LATEST: Final = "latest"
"""The name of the record that was written last."""


def find(folder: Path, key: str) -> Record:
    """Return the record of a results folder that a key, its beginning or "latest" names.

    Rows of the same key are one record, with the results of all. Raises
    :class:`~dentbench.errors.StoreError` for a key that none or several have.
    """
    from dentbench.records.results_csv import read
    from dentbench.records.union import united

    rows = read(folder)
    if not rows:
        raise StoreError(f"there are no records in {folder} yet; {HOW_TO_START}")
    if key == LATEST:
        key = rows[-1].key
    records = united([row for row in rows if key and row.key.startswith(key.lower())])
    if not records:
        newest = ", ".join(dict.fromkeys(row.key for row in rows[:-4:-1]))
        raise StoreError(
            f"no record in {folder} has the key {key!r}{suggestion(key, [LATEST])}; the newest are "
            f"{newest}; dentbench list names all"
        )
    if len(records) > 1:
        shown = [record.key for record in records[: -SHOWN - 1 : -1]]
        more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
        raise StoreError(
            f"several records in {folder} have keys that begin with {key!r}: "
            f"{', '.join(shown)}{more}; give more of the key"
        )
    return records[0]


def named(text: str, results: Path) -> tuple[Record, Path]:
    """Return the record that KEY, FOLDER/KEY or "latest" names, and its folder."""
    folder = Path(text).parent if "/" in text else results
    return find(folder.expanduser(), Path(text).name), folder


def complete(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """Return the keys of the results folder that begin so, newest first, with descriptions."""
    from dentbench.records.results_csv import read
    from dentbench.report.charts import heading

    folder = Path(ctx.params.get("results") or "results")
    try:
        rows = read(folder)
    except DentBenchError:
        return []
    rows_by_key = {row.key: row for row in reversed(rows) if row.key.startswith(incomplete.lower())}
    newest = [(LATEST, "the record written last")] if LATEST.startswith(incomplete) and rows else []
    return [*newest, *((key, heading(row)) for key, row in rows_by_key.items())]
