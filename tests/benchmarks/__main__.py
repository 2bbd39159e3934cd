"""``python -m tests.benchmarks [PART ...]``: measure, print, and write results/benchmarks/."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dentbench.records.provenance import device_name, git_revision, versions
from dentbench.records.results_csv import read
from tests.benchmarks import adaptation, endtoend, identity, null_verdicts, stage_order, stopping

PARTS = (
    *("adaptation", "end-to-end", "workers", "commands", "null-verdicts", "null-verdicts-full"),
    *("identity", "stopping", "stage-order"),
)


def processor() -> str:
    """Return the processor's name and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def measured(part: str) -> Any:
    if part == "end-to-end":
        return {
            "quick evaluation": endtoend.evaluated()[1],
            "attack on dent": {name: endtoend.against_released(name) for name in endtoend.RUNS},
        }
    if part == "workers":
        return endtoend.workers()
    if part == "null-verdicts":
        return null_verdicts.measure()
    if part == "null-verdicts-full":
        return null_verdicts.real_in_full()
    if part == "identity":
        return identity.measure()
    if part == "stopping":
        return stopping.measure()
    if part == "stage-order":
        return stage_order.measure()
    return endtoend.commands(read(Path("tests/golden/results-0.1"))[-1])


def as_it_comes(part: str) -> Iterator[Any]:
    """Yield the measurements so far: a part that takes long is kept before its end."""
    if part == "adaptation":
        yield from adaptation.configurations()
    else:
        yield measured(part)


def main(parts: list[str]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path("results/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts or PARTS:
        if part not in PARTS:
            raise SystemExit(f"no part {part!r}; there are {', '.join(PARTS)}")
        about = {
            "processor": processor(),
            "device": device_name(str(device)),
            "load": round(os.getloadavg()[0], 1),  # of the last minute, before it began
            "versions": json.loads(versions()),
            "git_revision": git_revision(),
        }
        for result in as_it_comes(part):
            text = json.dumps({**about, "measured": result}, indent=1)
            (folder / f"{part}-{device.type}.json").write_text(text + "\n")
        print(part, text, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
