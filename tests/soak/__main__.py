"""``python -m tests.soak [PART ...]``: the long forms; figures go to results/reliability.md."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from dentbench.records.outcome import Record
from dentbench.records.provenance import git_revision, versions
from tests.helpers import evaluated
from tests.soak import disk, fuzz, kills, rows

OUT: Final = Path("results/reliability.md")

FOUND: Final = (
    "Results files whose JSON cells hold another shape than their column's ended in a traceback "
    "(fuzz); they are checked when read.",
    "Two processes with the same command both did the work; one waits for the other now.",
    "At eps 0 the record of `batch-mates` could not be made.",
    "SIGTERM ended a run without a word; it ends as Ctrl-C does, with 143.",
    "NaN logits and diverging adaptations did not name the batch, the step and the loss.",
)
"""The faults that these and their short forms found, all mended."""


def _record(folder: Path) -> Record:
    return evaluated(folder / "one")[1]


PARTS: Final[dict[str, tuple[str, Callable[[Path], dict[str, Any]]]]] = {
    "kills": (
        "An evaluation under every protocol, separable and coupled, killed (SIGKILL) at random "
        "instants and resumed:\nrecords, flags and points equal bit for bit to those of an "
        "uninterrupted one; no row twice, none torn",
        lambda folder: kills.soak(folder, 200),
    ),
    "rows": (
        "Processes appending to one results.csv beside two readers: every row whole and once",
        lambda folder: rows.soak(folder / "rows", _record(folder), 8, 500),
    ),
    "disk": (
        "Disks that fill up during an evaluation: told in one sentence, and resumed elsewhere "
        "to the same end",
        lambda folder: disk.soak(folder, (4, 8, 16, 32, 64, 96, 128, 192, 256, 400)),
    ),
    "fuzz": (
        "Malformed input, generated: refused in words with exit code 2, or harmless; no "
        "traceback, no hang,\nno file changed",
        lambda folder: fuzz.soak(folder, 1000, _record(folder)),
    ),
}


def main(parts: list[str]) -> None:
    torch.set_num_threads(1)
    logging.getLogger("dentbench").setLevel(logging.ERROR)
    made_with = ", ".join(f"{name} {value}" for name, value in json.loads(versions()).items())
    lines = [
        "# Reliability: the long forms",
        "",
        "Written by `make soak`. Every part raises at the first difference, so what is here held.",
        f"Made at revision {git_revision()} with {made_with}.",
        "",
    ]
    for part in parts or PARTS:
        title, work = PARTS[part]
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            result = work(Path(folder))
        minutes = (time.perf_counter() - started) / 60
        figures = "; ".join(
            f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}"
            for name, value in result.items()
        )
        lines += [f"## {part}", "", f"{title}.", "", f"    python -m tests.soak {part}", ""]
        lines += [f"{figures}. {minutes:.1f} minutes.", ""]
        print(part, result, f"{minutes:.1f} min", flush=True)
    lines += ["## Found and mended", "", *(f"- {item}" for item in FOUND), ""]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
