"""Name the next step under a verdict that is not final: remedies by hand, and the command."""

from __future__ import annotations

from pathlib import Path

from dentbench.records.outcome import Record
from dentbench.report.commands import next_command
from dentbench.report.formats.escape import printable
from dentbench.report.verdict import Verdict


def next_step(verdict: Verdict, defended: Record, results: str | Path = "results") -> str:
    """Return the line "Next: ..." for a verdict on a record of a results folder; "" of a final one.

    Changes to the model or the defense come first, in words.
    """
    if verdict.final:
        return ""
    call = next_command(defended, results, verdict.changes)
    first = "; ".join(dict.fromkeys(verdict.by_hand))
    return printable(f"Next: {first}; then {call}" if first else f"Next: {call}")
