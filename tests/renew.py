"""Write down anew what tests compare with: ``python -m tests.renew columns|stages|readme``.

``columns``: the columns of results.csv. Refused where they changed and SCHEMA did not.
``stages``: the code of each stage. Refused where it changed and the stage's number did not, unless
``--same-answers`` says that its answers are the same, bit for bit, as after a renaming.
``readme``: the tables of README.md and results/README.md that follow from the code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from dentbench.records.outcome import SCHEMA, Record
from tests import readme
from tests.stage_code import code_of_stages

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = GOLDEN / "columns.json"
STAGES = GOLDEN / "stages.json"

Stages = Mapping[str, Mapping[str, int | str]]

ADVICE = (
    "the code of these stages changed; if their answers may, raise their version (ProtocolCard, "
    "DefenseCard, NATURAL_VERSION, CHECKS_VERSION) and run python -m tests.renew stages, else run "
    "it with --same-answers"
)


def columns() -> dict[str, Any]:
    """Return the columns as they are: the schema, and the type of each by name, in order."""
    return {"schema": SCHEMA, "columns": {field.name: str(field.type) for field in fields(Record)}}


def what_to_do(path: Path, present: dict[str, Any], known: dict[str, Any]) -> str:
    """Return what is to be done about the columns, "" where nothing is."""
    changed = list(present["columns"].items()) != list(known["columns"].items())
    if not changed and present == known:
        return ""
    if changed and present["schema"] <= known["schema"]:
        return "the columns changed: raise SCHEMA in dentbench/records/outcome.py by one"
    return f"{path.name} is old: run python -m tests.renew {path.stem}"


def stages_to_raise(present: Stages, known: Stages) -> list[str]:
    """Return the stages whose code is another, and whose number is not."""
    return [
        name
        for name, stage in present.items()
        if name in known
        and stage["code"] != known[name]["code"]
        and stage["version"] == known[name]["version"]
    ]


def main(what: str, *options: str) -> str:
    """Renew one golden file; return what is wrong, or ""."""
    if what == "columns":
        known = json.loads(COLUMNS.read_text())
        problem = what_to_do(COLUMNS, columns(), known)
        if problem.startswith("the columns"):
            return problem
        COLUMNS.write_text(json.dumps(columns(), indent=1) + "\n")
        return ""
    if what == "readme":
        readme.renew()
        return ""
    if what != "stages":
        return f"{what!r} is none of columns, stages and readme"
    present = code_of_stages()
    stale = stages_to_raise(present, json.loads(STAGES.read_text()))
    if stale and options != ("--same-answers",):
        return f"{', '.join(stale)}: {ADVICE}"
    STAGES.write_text(json.dumps(present, indent=1) + "\n")
    return ""


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or [""])))
