"""``python -m tests.gpu``: the checks and timings that need a GPU, within so many minutes.

Every part runs in a process of its own, and is ended when its time is over; every figure is written
when it is there. See ``requirements.txt`` beside this file for what it needs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.gpu import evaluations
from tests.gpu.parts import GRACE, Part, Running, Setting

EVALUATING = ("pyautoattack", "cloudpickle")
STANDARD = "ResNet-20, Linf 8/255, fp32, standard"

GROUPS = {"cuda_graphs": 40, "numbers": 30, "runs": 90, "memory": 30}
"""The tests, by file, and their seconds: each in a process of its own."""

PARTS = (
    *(
        Part(
            name=f"tests of {group}",
            file="tests",
            seconds=seconds,
            work="tests.gpu.equality:run",
            given=(group,),
            needs=EVALUATING,
        )
        for group, seconds in GROUPS.items()
    ),
    Part(
        name="adaptation",
        file="adaptation",
        seconds=150,
        work="tests.gpu.adaptation:run",
        needs=("adamod",),
    ),
    Part(
        name="training",
        file="training",
        seconds=90,
        work="tests.gpu.training:run",
        needed=("train_data",),
    ),
    *(
        Part(
            name=name,
            file="evaluations",
            seconds=600 if name == STANDARD else 45,
            work="tests.gpu.evaluations:run",
            given=(name,),
            needs=EVALUATING,
        )
        for name in evaluations.RUNS
    ),
)
"""In the order in which they run; the last one gets what is left."""

LEAST = 10.0
"""Seconds: a part that has less is skipped."""

CLOSING = 6.0
"""Seconds to pack the evaluations' files."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything together")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--data", type=Path, help="images to evaluate on: .parquet or .npz")
    parser.add_argument("--train-data", type=Path, help="images to train on: .parquet")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="these only, by their beginning")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    return parser.parse_args(arguments)


def run(setting: Setting, parts: Sequence[Part], until: float) -> dict[str, str]:
    """Run parts one after the other; return how each ended."""
    ended = {}
    for part in parts:
        lacking = part.lacking(setting)
        left = until - time.monotonic() - GRACE - CLOSING
        if not lacking and left < LEAST:
            lacking = "skipped: no time was left"
        if lacking:
            ended[part.name] = lacking
        else:
            seconds = left if setting.dry else min(part.seconds, left)
            own = replace(setting, until=time.monotonic() + seconds)
            ended[part.name] = Running(part, own).finish()
        _tell(part, ended[part.name], setting)
    return ended


def _tell(part: Part, ended: str, setting: Setting) -> None:
    print(f"== {part.name}: {ended}", flush=True)
    setting.figures(part.file).add(f"{part.name}, ended", ended)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return 0 if every part is done or skipped."""
    options = parse(arguments)
    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [
        part
        for part in PARTS
        if not options.parts or any(part.name.startswith(name) for name in options.parts)
    ]
    scratch = Path(tempfile.mkdtemp(prefix="dentbench-gpu-"))
    os.environ.setdefault("DENTBENCH_CACHE", str(scratch / "cache"))
    setting = Setting(
        out=options.out,
        scratch=scratch,
        device="cpu" if options.dry else "cuda",
        dry=options.dry,
        data=options.data,
        train_data=options.train_data or (Path("noise") if options.dry else None),
    )
    try:
        ended = run(setting, parts, started + 60 * options.minutes)
        evaluations.keep_records(setting)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{time.monotonic() - started:.0f} s in all")
    for name, how in ended.items():
        print(f"{name}: {how}")
    return int(any("failed" in how for how in ended.values()))


if __name__ == "__main__":
    raise SystemExit(main())
