"""Judge final points again by a defense that was never asked before.

Every stage has a process of its own with an instance of its own, made from the defense as it was
before this run asked it anything. On a GPU, where a process takes seconds to start, the stages of a
defense that is this package's, around a network of a listed library, share a process: no code there
keeps anything beside the instance. It is shown the points as they are stored, in the declared
batches, the last batch first. An image that is right only where the attack ran is not right: there
a defense that remembers, counts its calls or recognizes its attacker answers otherwise.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dentbench.attacks.base import margins, or_wrong, scale_of
from dentbench.attacks.rng import SeededDefense
from dentbench.compute.backend import Engine
from dentbench.errors import WorkerError, first_line
from dentbench.evaluation.fresh_judgement.fork_server import SERVER, forked
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.workers.prepared_model import PreparedModel
from dentbench.evaluation.workers.worker import Worker
from dentbench.records.checkpoint import Points, RunFolder, sha256_of
from dentbench.records.judged import CLOSE, Judged
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import EvalSpec, derive_seed


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """A request to judge anew the points of stages of a spec, ``draws`` times.

    ``pristine``: the network and the defenses, as a command keeps them. ``batches``: how many of
    the first; None for all. ``at_a_time``: how many images there is memory for.
    """

    pristine: bytes
    images: Tensor
    labels: Tensor
    engine: Engine
    device: str
    threads: int
    results: Path
    spec: EvalSpec
    stages: tuple[str, ...]
    batches: int | None
    draws: int
    at_a_time: int | None

    def ask(self) -> dict[str, list[Judged]]:
        """Return the answers of new processes by stage and batch.

        Raises :class:`~dentbench.errors.WorkerError` where they cannot answer.
        """
        data = pickle.dumps(self)
        try:
            return SERVER.call(judge_anew, data)
        except (OSError, ValueError) as error:
            raise WorkerError(first_line(error)) from error


def judge_anew(data: bytes) -> dict[str, list[Judged]]:
    """Carry out a :class:`JudgeRequest` in this process, which is new."""
    request: JudgeRequest = pickle.loads(data)
    if request.device != "cpu":
        return judge_one_by_one(request)
    network, given = pickle.loads(request.pristine)
    return judged(request, network, given, isolated=True)


def judge_one_by_one(request: JudgeRequest) -> dict[str, list[Judged]]:
    """Return the answers by stage, each stage's of an instance of its own, in this process.

    A process that uses a GPU cannot be forked, and to start takes it seconds.
    """
    answers: dict[str, list[Judged]] = {}
    for stage in reversed(request.stages):
        network, given = pickle.loads(request.pristine)
        answers |= judged(replace(request, stages=(stage,)), network, given, isolated=False)
    return {stage: answers[stage] for stage in request.stages}


def judged(
    request: JudgeRequest, network: nn.Module, given: Any, *, isolated: bool
) -> dict[str, list[Judged]]:
    """Return the answers of a defense made of a network that was asked nothing, by stage.

    ``isolated``: every stage has a fork of this process, which must have run nothing in parallel
    before; else they share an instance.
    """
    inputs = RunInputs(network=network, images=request.images, labels=request.labels)
    if isolated:
        torch.set_num_threads(1)  # a process with threads cannot be forked
    worker = Worker(PreparedModel(inputs, request.device, request.engine, given, tried=False))
    worker.micro_batcher.learn(request.spec, request.at_a_time)
    worker.classifier(request.spec)  # made once, before every fork
    answers = {
        stage: _asked(worker, request, stage, isolated=isolated)
        for stage in reversed(request.stages)
    }
    return {
        stage: [_combined(draws) for draws in zip(*answers[stage], strict=True)]
        for stage in request.stages
    }


@dataclass(frozen=True)
class _Answer:
    sha256: str
    right: tuple[bool, ...]
    close: tuple[bool, ...]
    logits: Any


def _asked(
    worker: Worker, request: JudgeRequest, stage: str, *, isolated: bool
) -> list[list[_Answer]]:
    """Return the answers to a stage's points, draw by draw and batch by batch."""

    def work() -> list[list[_Answer]]:
        return [_answers(worker, request, stage, draw) for draw in range(request.draws)]

    if not isolated:
        return work()

    def in_a_fork() -> list[list[_Answer]]:
        torch.set_num_threads(request.threads)
        return work()

    good, answer = forked(in_a_fork)
    if not good:
        raise WorkerError(str(answer))
    assert isinstance(answer, list)
    return answer


def _answers(worker: Worker, request: JudgeRequest, stage: str, draw: int) -> list[_Answer]:
    """Ask about every batch of a stage, the last first; return the answers in order."""
    spec = request.spec
    seed = derive_seed(spec.seed, "defense", "fresh", draw, stage)
    random.seed(seed)  # a defense may draw from any of them
    np.random.seed(seed)
    units = spec.batches.ranges(spec.data.count)[: request.batches]
    folder = RunFolder(request.results, spec)
    answers = []
    for unit, rows in reversed([*enumerate(units)]):
        labels = request.labels[rows.start : rows.stop]
        if stage == NATURAL:
            points: Points = request.images[rows.start : rows.stop].numpy()
        else:
            points = folder.load_points(stage, unit)
        answers.append(_answer(worker, spec, unit, points, labels, derive_seed(seed, unit)))
    return answers[::-1]


@torch.no_grad()
def _answer(
    worker: Worker, spec: EvalSpec, unit: int, points: Points, labels: Tensor, seed: int
) -> _Answer:
    x, y = torch.from_numpy(points).to(worker.device), labels.to(worker.device)

    defense = SeededDefense(worker.classifier(spec, unit), seed, worker.device)
    parts = [defense(part) for part in x.split(spec.batches.size)]
    logits = or_wrong(torch.cat(parts), y)
    return _Answer(
        sha256=sha256_of(points),
        right=tuple((logits.argmax(1) == y).tolist()),
        close=tuple((margins(logits, y).abs() < CLOSE * scale_of(logits)).tolist()),
        logits=logits.float().cpu().numpy(),
    )


def _combined(draws: Sequence[_Answer]) -> Judged:
    logits = np.stack([draw.logits for draw in draws])
    span = scale_of(torch.from_numpy(logits[0]))
    spread = float((logits.max(0) - logits.min(0)).max()) / span
    return Judged(
        sha256=draws[0].sha256,
        right=tuple(draw.right for draw in draws),
        close=draws[0].close,
        spread=spread,
    )
