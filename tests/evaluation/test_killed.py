"""Killed without warning in every protocol in turn, an evaluation ends in the same record."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.counting import CallCounter
from dentbench.attacks.stage_order import cheap_first
from dentbench.defenses.naming import built_in
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.fresh_judgement.fork_server import SERVER
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.schedule import Schedule
from dentbench.evaluation.workers.worker import Task, Worker
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import NATURAL, Record
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DentSpec, EvalSpec, ProtocolSpec
from tests.helpers import NOT_COMPARED, compared, outcomes, spec_of, subject
from tests.reference import tiny_network

DEFENSES = {
    "instance": DentSpec(steps=2, lr=0.05),
    "batch": DentSpec(mode="batch", steps=2, lr=0.05),
}
FOUR = 4
"""A batch, and one of a single image."""

WITHOUT_STATE = {"poisoned-stream"}
"""The protocol that skips a defense without state from batch to batch."""

STAGES = (NATURAL, *cheap_first([name for name in PROTOCOLS if name not in WITHOUT_STATE]))
"""In the order in which a round runs them, so that each is still to be run when its turn comes."""


def specs_of(mode: str) -> list[EvalSpec]:
    """The static model and a coupled defense, which every protocol but none skips."""
    short = {
        "attack": AttackSpec(name="quick", eps=Fraction(1, 50), iterations=2, targets=1),
        "protocols": ProtocolSpec(rounds=2, queries=5, fractions=(0.4,)),
    }
    return [spec_of(None, FOUR, **short), spec_of(DEFENSES[mode], FOUR, **short)]


def evaluated(results: Path, mode: str) -> list[Record]:
    evaluation = Evaluation(subject(FOUR), RunOptions(results=results))
    return evaluation.run(specs_of(mode), tuple(PROTOCOLS))


def killed_in(stage: str, results: Path, mode: str) -> None:
    """Evaluate, and be killed while the defense is asked about the stage's second batch.

    It ends before anything is judged anew, so it starts no process for that.
    """
    carry_out, forward = Worker.carry_out, CallCounter.forward
    calls = [-1]

    def carrying_out(worker: Worker, task: Task) -> Any:
        if task.spec.defense is not None and (task.stage, task.unit) == (stage, 1):
            calls[0] = 0
        return carry_out(worker, task)

    def counting(counter: CallCounter, images: int) -> None:
        forward(counter, images)
        calls[0] += calls[0] >= 0
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    SERVER.start = lambda: None  # type: ignore[method-assign]
    Worker.carry_out, CallCounter.forward = carrying_out, counting  # type: ignore[method-assign]
    evaluated(results, mode)


def rows(results: Path) -> list[dict[str, str]]:
    """The rows of the results file, cell by cell as they are written, but for times and places."""
    with (results / "results.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name not in NOT_COMPARED}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(("mode", "stages"), [("batch", STAGES), ("instance", STAGES[::4])])
def test_killed_in_every_protocol_it_ends_in_the_same_record(
    mode: str, stages: Sequence[str], tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = evaluated(whole, mode)
    assert set(json.loads(expected[1].skipped or "{}")) == WITHOUT_STATE
    assert set(expected[1].protocol_counts) == set(STAGES) - {NATURAL}

    context = multiprocessing.get_context("fork")  # so that torch is loaded once
    for stage in stages:
        process = context.Process(target=killed_in, args=(stage, resumed, mode))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, stage
        folder = RunFolder(resumed, specs_of(mode)[1])
        assert folder.load(stage, 0) is not None and folder.load(stage, 1) is None, stage

    actual = evaluated(resumed, mode)
    assert list(map(compared, actual)) == list(map(compared, expected))
    assert outcomes(resumed) == outcomes(whole)
    assert rows(resumed) == rows(whole)
    assert not list(resumed.rglob("*.tmp"))


# --- defenses that answer by chance ---------------------------------------------------------------


def by_chance(
    results: Path, name: str, settings: dict[str, Any], **how: Any
) -> tuple[list[dict[str, Any]], Any]:
    """Evaluate a random defense in a new process, as it were; return records and outcomes."""
    network = tiny_network(channels=1)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = network(images).argmax(1)
    static = spec_of(None, 4, batches=BatchPlan(size=2), protocols=ProtocolSpec(draws_judged=2))
    specs = [static, replace(static, defense=built_in(name, settings))]
    inputs = RunInputs(network=network, images=images, labels=labels)
    options = RunOptions(results=results, schedule=Schedule(**how), untimed=True)
    records = Evaluation(inputs, options).run(specs, ("transfer", "published"))
    return [*map(compared, records)], outcomes(results)


CHANCE: dict[str, dict[str, Any]] = {
    "smoothing": {"draws": 2},
    "diffpure": {"steps": 1},
    "hedge": {"steps": 1},
    "ttc": {"steps": 1},
    "ig-defense": {},
}


@pytest.mark.parametrize("name", CHANCE)
def test_the_first_question_to_a_random_defense_is_answered_like_any_other(
    name: str, tmp_path: Path
) -> None:
    expected = by_chance(tmp_path, name, CHANCE[name])
    (lost,) = (path for path in tmp_path.rglob("published/00001.npz") if _is_defended(path))
    lost.unlink()
    assert by_chance(tmp_path, name, CHANCE[name])[1] == expected[1]


def _is_defended(outcome: Path) -> bool:
    return (outcome.parents[1] / "transfer").is_dir()


@pytest.mark.checks
def test_a_random_defense_goes_on_where_a_limit_ended_it(tmp_path: Path) -> None:
    expected = by_chance(tmp_path / "whole", "smoothing", CHANCE["smoothing"])
    ended = (tmp_path / "ended", "smoothing", CHANCE["smoothing"])
    records, _ = by_chance(*ended, pass_limit=1)
    assert records[1]["n"] == 2 and records[1]["protocol"] == "transfer"
    assert by_chance(*ended, rounds=2) == expected
