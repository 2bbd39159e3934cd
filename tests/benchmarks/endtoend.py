"""Whole runs: a quick evaluation with ours and with the released algorithm; workers; start-up."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

from dentbench.attacks.autoattack import run_attack
from dentbench.attacks.base import ThreatModel, judge
from dentbench.attacks.views import BatchView
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.workers.placement import Placement
from dentbench.records.outcome import Record
from dentbench.records.results_csv import append, read
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DentSpec, EvalSpec, ModelSpec
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.images.arrays import slice_of
from dentbench.zoo.models import load_model
from tests.benchmarks.elsewhere import elsewhere
from tests.benchmarks.pairs import Work, ratio, timed
from tests.benchmarks.released import ReleasedDent


def digits(count: int, batch: int, iterations: int = 10) -> tuple[RunInputs, EvalSpec]:
    """Return the embedded robust digits network with so many images, and a static spec."""
    model = load_model("digits-robust")
    images, labels, data = slice_of(load_dataset("digits"), 0, count)
    spec = EvalSpec(
        model=ModelSpec(name=model.name, sha256=model.sha256),
        data=data,
        batches=BatchPlan(size=batch),
        attack=AttackSpec(name="quick", eps=Fraction(1, 5), iterations=iterations),
    )
    return RunInputs(network=model.network, images=images, labels=labels), spec


RUNS = {"digits-robust": (256, 100, 3), "cifar10-resnet20-robust": (20, 20, 11)}
"""Each embedded model's images, the iterations of the quick attack on them, and how many rounds."""


def attacked(name: str) -> tuple[RunInputs, EvalSpec]:
    """Return one of :data:`RUNS`: embedded images in batches of 128, and dent under attack."""
    images, iterations, _ = RUNS[name]
    if name == "digits-robust":
        subject, static = digits(images, 128, iterations)
        return subject, replace(static, defense=DentSpec(lr=0.02))
    model = load_model(name)
    x, y, data = slice_of(load_dataset("cifar10-sample"), 0, images)
    spec = EvalSpec(
        model=ModelSpec(name=model.name, sha256=model.sha256),
        data=data,
        defense=DentSpec(),
        attack=AttackSpec(name="quick", eps=Fraction(8, 255), iterations=iterations),
    )
    return RunInputs(network=model.network, images=x, labels=y), spec


def run_ours(name: str, placement: Placement) -> None:
    """Count what dent gets right, naturally and under attack, as ``dentbench evaluate`` does."""
    subject, spec = attacked(name)
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Evaluation(subject, RunOptions(results=Path(folder), placement=placement))
        evaluation.stages.plan([spec], ["published"])
        evaluation.outcomes(spec, "published")


def run_released(name: str) -> None:
    """Do the same with the released algorithm, in PyTorch as it comes."""
    subject, spec = attacked(name)
    assert isinstance(spec.defense, DentSpec)
    defense = ReleasedDent(subject.network.eval(), lr=spec.defense.lr)
    threat = ThreatModel.of(spec.attack)
    for batch in spec.batches.ranges(spec.data.count):
        x, y = (item[batch.start : batch.stop] for item in (subject.images, subject.labels))
        natural = judge(defense, x, y)
        view = BatchView(defense, x, y, threat, whole=True)
        run_attack(view, spec.attack, natural, 10, seed_of=lambda *_: 0, chunk=128)


def released_runs(name: str) -> dict[str, Work]:
    return {"released": lambda: run_released(name)}


def against_released(name: str) -> dict[str, Any]:
    """Time the same run with ours, as it comes and in one process, and as released.

    As it comes, ours has as many workers as are faster; their start is in the time.
    """
    images, iterations, rounds = RUNS[name]
    placements = {"ours": Placement(workers="auto"), "ours, one worker": Placement(workers=1)}
    works = {
        kind: lambda placement=placement: run_ours(name, placement)
        for kind, placement in placements.items()
    }
    with elsewhere(released_runs, name) as released:
        seconds = timed({**works, **released}, rounds)
    return {
        "images": images,
        "iterations": iterations,
        "rounds": rounds,
        "seconds": {kind: round(median(result), 2) for kind, result in seconds.items()},
        **{
            f"released over {kind}": round(ratio(seconds["released"], seconds[kind]), 2)
            for kind in works
        },
    }


def workers(rounds: int = 5) -> dict[str, Any]:
    """Time a run of 30 batches on one and on two Ray workers of one thread each, once started."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    subject, static = digits(480, 16)
    spec = replace(static, defense=DentSpec(lr=0.02))
    flags = {}

    def run(count: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            placement = Placement(executor="ray", workers=count, threads=1)
            options = RunOptions(results=Path(folder), placement=placement)
            evaluation = Evaluation(subject, options)
            outcomes = evaluation.outcomes(spec, "published")
            flags[count] = [outcome.correct for outcome in outcomes]

    seconds = timed({str(count): lambda count=count: run(count) for count in (1, 2)}, rounds)
    ray.shutdown()
    assert flags[1] == flags[2]
    return {
        "batches": 30,
        "seconds": {name: round(median(result), 2) for name, result in seconds.items()},
        "one over two": round(ratio(seconds["1"], seconds["2"]), 2),
    }


def commands(record: Record, rows: int = 10_000, rounds: int = 3) -> dict[str, Any]:
    """Time ``--help`` and a report over many rows, each in a process of its own.

    Medians of rounds in seconds: as long as they took, and of a core, which others leave alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        append(results, record)
        header, row, *_ = (results / "results.csv").read_text().splitlines(keepends=True)
        keyed = [row.replace(record.key, f"{number:016x}") for number in range(rows)]
        (results / "results.csv").write_text(header + "".join(keyed))
        assert len(read(results)) == rows
        report = ["report", "--results", folder, "--format"]
        formats = ("csv", "markdown", "latex", "html")
        works = {"help": ["--help"]}
        works |= {f"report of {rows:,} rows, {name}": [*report, name] for name in formats}
        cores: dict[str, list[float]] = {name: [] for name in works}
        seconds = timed(
            {
                name: lambda name=name, words=words: cores[name].append(_of_a_core(words))
                for name, words in works.items()
            },
            rounds,
        )
    return {
        name: {
            "seconds": round(median(result), 3),
            "seconds of a core": round(median(cores[name][-rounds:]), 3),
        }
        for name, result in seconds.items()
    }


def _of_a_core(words: list[str]) -> float:
    """Run a command and return how long it kept a core busy, in seconds."""
    # With bytecode, as pip leaves it beside what it installs; the call to warm up writes it.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dentbench", *words]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def evaluated() -> tuple[Record, dict[str, Any]]:
    """Run the demo's first evaluation on 64 images; return its record, seconds and peak memory."""
    subject, static = digits(64, 64)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Evaluation(subject, RunOptions(results=Path(folder)))
        specs = [static, replace(static, defense=DentSpec(lr=0.02))]
        record = evaluation.run(specs, ["published", "transfer"])[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return record, {
        "seconds": round(time.perf_counter() - started, 2),
        "peak MiB of the process": round(peak),
        "by protocol": json.loads(record.by_protocol),
    }
