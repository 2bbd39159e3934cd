"""Judge final points with defenses that are as they were before the run asked them anything."""

from __future__ import annotations

import io
import pickle
import random
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule

from dentbench.compute.bn_relu_fusion import has_hooks
from dentbench.defenses.copies import ANEW, copied
from dentbench.errors import WorkerError, first_line
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.fresh_judgement.judge_process import JudgeRequest, judged
from dentbench.evaluation.fresh_judgement.judgement import Judgement
from dentbench.identity.user_code import is_library
from dentbench.records.judged import Judged
from dentbench.spec.evaluation import DefenseSpec, EvalSpec


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes a user's objects down with their code; locks are made anew."""

    dispatch_table: ClassVar[Any] = ChainMap(dict(ANEW), cloudpickle.Pickler.dispatch_table)


def _pickled(thing: Any) -> bytes:
    data = io.BytesIO()
    _Pickler(data).dump(thing)
    return data.getvalue()


class Pristine:
    """A network and defenses as they are before a run has asked them anything.

    They are kept as bytes, which new processes are made of; where they cannot be, ``reason`` says
    why, and they are kept as a copy, if that can be made.
    """

    def __init__(self, network: nn.Module, given: Mapping[DefenseSpec, Any] | None) -> None:
        self.reason = ""
        self.data: bytes | None = None
        self.copied: tuple[nn.Module, Any] | None = None
        try:
            self.data = _pickled((network, given))
        except Exception as error:  # they may raise anything
            self.reason = f"it cannot be sent to another process ({first_line(error)})"
            try:
                self.copied = copied((network, given))
            except Exception as again:
                self.reason += f" and cannot be copied ({first_line(again)})"


def judge_anew(
    context: RunContext,
    pristine: Pristine,
    spec: EvalSpec,
    stages: Sequence[str],
    batches: int,
    draws: int,
) -> Judgement:
    """Judge final points by new defenses, in new processes or else by a copy in this process."""
    worker = context.worker
    request = JudgeRequest(
        pristine=pristine.data or b"",
        images=context.inputs.images,
        labels=context.inputs.labels,
        engine=worker.blueprint[1],
        device=str(worker.device),
        threads=torch.get_num_threads(),
        results=context.options.results.absolute(),
        spec=spec,
        stages=tuple(stages),
        batches=batches,
        draws=draws,
        at_a_time=worker.micro_batcher.size(spec),
    )
    reason, made = pristine.reason, pristine.copied
    if pristine.data is not None:
        # A process that has used a GPU cannot be forked: there a stage of code that may remember
        # something beside its instance is a call of its own.
        on_gpu = worker.device.type != "cpu"
        try:
            return _asked(
                request, apart=on_gpu and not is_library_code(context.inputs.network, spec)
            )
        except WorkerError as error:
            reason, made = str(error), pickle.loads(pristine.data)
    if made is None:
        return Judgement({}, reason)
    network, given = copied(made)
    with _random_numbers_kept():
        return Judgement(judged(request, network, given, isolated=False), reason)


def _asked(request: JudgeRequest, *, apart: bool) -> Judgement:
    """Ask new processes: for all stages at once, or ``apart`` in a call for each."""
    parts = [(stage,) for stage in request.stages] if apart else [request.stages]
    stages: dict[str, list[Judged]] = {}
    for part in parts:
        stages |= replace(request, stages=part).ask()
    return Judgement(stages)


def is_library_code(network: nn.Module, spec: EvalSpec) -> bool:
    """Return whether a network's code is of listed libraries, and its defense built in.

    Such code keeps nothing in its module or class, so that a new instance knows nothing of others.
    """
    if isinstance(spec.defense, DefenseSpec) and spec.defense.sha256:
        return False
    return all(
        is_library(type(part).__module__)
        and not isinstance(part, GraphModule | torch.jit.ScriptModule)
        and "forward" not in vars(part)
        and not has_hooks(part)
        for part in network.modules()
    )


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
