"""An evaluation killed at random instants, and resumed: the same bits as never interrupted."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.records import results_csv
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DentSpec, ProtocolSpec
from tests.helpers import compared, evaluated, outcomes, spec_of

DEFENSES = (DentSpec(steps=2, lr=0.05, loss="entropy"), DentSpec(mode="batch", steps=2, lr=0.05))
"""A separable and a coupled defense."""


def evaluate(results: Path, names: Sequence[str] = tuple(PROTOCOLS)) -> None:
    """Run protocols on both defenses; the files that it leaves are compared."""
    attack = AttackSpec(name="quick", eps=Fraction(1, 50), iterations=2, targets=1)
    settings = ProtocolSpec(rounds=1, restarts=1)
    static = spec_of(None, attack=attack, batches=BatchPlan(size=4), protocols=settings)
    specs = [static, *(replace(static, defense=defense) for defense in DEFENSES)]
    evaluated(results, specs, protocols=names, diagnostics=True)


def left(results: Path) -> tuple[Any, ...]:
    """Return all that a run leaves but times: records, outcomes with points, and odd files."""
    records = [compared(record) for record in results_csv.read(results)]
    odd = [path.name for path in results.rglob("*") if path.suffix in (".torn", ".corrupt")]
    return records, outcomes(results), odd


def killed_and_resumed(
    results: Path, delays: Callable[[], float], most: int, run: Callable[[Path], None] = evaluate
) -> int:
    """Run in child processes, each killed after a delay, until one comes to the end.

    Returns how many were killed; after ``most`` kills a child is let go on to the end.
    """
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                run(results)
                os._exit(0)
            except BaseException:
                os._exit(1)
        if kills < most:
            time.sleep(delays())
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return kills
        kills += 1


def soak(
    folder: Path, instants: int, seed: int = 0, names: Sequence[str] = tuple(PROTOCOLS)
) -> dict[str, Any]:
    """Kill at so many instants in all; return the counts, or raise for a difference."""
    evaluate(folder / "whole", names)
    expected = left(folder / "whole")
    rng, killed, runs = random.Random(seed), 0, 0
    while killed < instants:
        results = folder / f"run{runs}"
        killed += killed_and_resumed(
            results, lambda: rng.uniform(0, 0.6), instants - killed, partial(evaluate, names=names)
        )
        runs += 1
        assert left(results) == expected, results
    rows = len(expected[0])
    return {"instants killed": killed, "runs resumed to the end": runs, "records each": rows}
