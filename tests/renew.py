"""Write down anew what tests compare with: ``python -m tests.renew columns``, or ``stages``.

``columns``: the columns of results.csv. Refused where they changed and SCHEMA did not.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from dentbench.records.outcome import SCHEMA, Record

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = GOLDEN / "columns.json"


def columns() -> dict[str, Any]:
    """Return the columns as they are: the schema, and the type of each by name, in order."""
    return {"schema": SCHEMA, "columns": {one.name: str(one.type) for one in fields(Record)}}


def what_to_do(path: Path, present: dict[str, Any], known: dict[str, Any]) -> str:
    """Return what is to be done about the columns, "" where nothing is."""
    changed = list(present["columns"].items()) != list(known["columns"].items())
    if not changed and present == known:
        return ""
    if changed and present["schema"] <= known["schema"]:
        return "the columns changed: raise SCHEMA in dentbench/records/outcome.py by one"
    return f"{path.name} is old: run python -m tests.renew {path.stem}"


def main(what: str) -> str:
    """Renew one golden file; return what is wrong, or ""."""
    if what != "columns":
        return f"{what!r} is neither columns nor stages"
    known = json.loads(COLUMNS.read_text()) if COLUMNS.exists() else {"schema": 0, "columns": {}}
    problem = what_to_do(COLUMNS, columns(), known)
    if problem.startswith("the columns"):
        return problem
    COLUMNS.write_text(json.dumps(columns(), indent=1) + "\n")
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
