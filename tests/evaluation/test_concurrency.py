"""Processes that share a results folder: every run is done once, and every row is whole."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.records import results_csv
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DataSpec, EvalSpec, ModelSpec

SPEC = EvalSpec(
    model=ModelSpec(name="net", sha256="0" * 64),
    data=DataSpec(name="noise", sha256="0" * 64, first=0, count=24),
    batches=BatchPlan(size=2),
    attack=AttackSpec(name="quick", iterations=2),
)


class Logged(nn.Module):
    """A network that writes down, in a file of its process, that it was asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 36, 4)
        self.folder = folder

    def forward(self, x: Tensor) -> Tensor:
        with (self.folder / f"{os.getpid()}.calls").open("a") as file:
            file.write(f"{len(x)}\n")
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def evaluate(results: Path, start: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    network, images = Logged(results), torch.rand(24, 3, 6, 6)
    labels = network.layer(images.flatten(1)).argmax(1)
    evaluation = Evaluation(
        RunInputs(network=network, images=images, labels=labels), RunOptions(results=results)
    )
    start.wait()
    evaluation.run([SPEC], ["published"])


def calls(results: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in results.glob("*.calls"))


def test_two_processes_with_the_same_run_do_the_work_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # so that torch is loaded once
    made = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        start = context.Barrier(count)
        processes = [context.Process(target=evaluate, args=(folder, start)) for _ in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        made.append(calls(folder))
    # Whoever does a part of the work, the other has made ready for it: fewer calls than the batches
    # of a stage.
    alone, together = made
    assert alone > 60 and 0 < together - alone < 12
    assert len(results_csv.read(tmp_path / "2")) == 1
    left, right = (RunFolder(tmp_path / name, SPEC) for name in ("1", "2"))
    for stage in (NATURAL, "published"):
        for unit in range(12):
            first, second = left.load(stage, unit), right.load(stage, unit)
            assert first is not None and second is not None
            assert first.correct == second.correct


def test_who_waits_for_a_run_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    held, released = threading.Event(), []

    def hold() -> None:
        with RunFolder(tmp_path, SPEC).exclusive():
            held.set()
            time.sleep(0.3)
            released.append(True)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with RunFolder(tmp_path, SPEC).exclusive():
        assert released
    holder.join()
    assert "another process is working on run" in caplog.text
