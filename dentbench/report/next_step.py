"""Name the next step under a verdict that is not final: remedies by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path

from dentbench.records.outcome import Record
from dentbench.report.commands import Words, next_command
from dentbench.report.formats.escape import printable
from dentbench.report.verdict import Verdict
from dentbench.zoo.images.image_counts import images_there

EXAMPLES = "--examples"


def next_step(verdict: Verdict, defended: Record, results: str | Path = "results") -> str:
    """Return the line "Next: ..." for a verdict on a record of a folder; "" of a final verdict.

    Changes to the model, the data or the defense come first, in words. The command asks for no more
    images than the data set has.
    """
    if verdict.final:
        return ""
    changes, more = _within(verdict.changes, defended)
    first = "; ".join(dict.fromkeys((*more, *verdict.by_hand)))
    if not changes and verdict.changes:  # more images alone would settle it
        return printable(f"Next: {first}")
    call = next_command(defended, results, changes)
    return printable(f"Next: {first}; then {call}" if first else f"Next: {call}")


def _within(changes: tuple[Words, ...], record: Record) -> tuple[list[Words], list[str]]:
    """Return changes that the data set allows, and in words the images that they lack."""
    wanted = next((int(words[1]) for words in changes if words[0] == EXAMPLES), None)
    whole = images_there(record.dataset, json.loads(record.source or "{}").get("data"))
    if wanted is None or whole is None or wanted <= (most := whole - record.first):
        return list(changes), []
    others = [words for words in changes if words[0] != EXAMPLES]
    lacking = [f"take more images of that kind, for {record.dataset} has {whole:,}"]
    if most > record.count:
        return [*others, (EXAMPLES, str(most))], []
    return others, lacking
