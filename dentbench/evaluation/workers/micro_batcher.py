"""Fit the number of images at a time to memory, after running out of it or beforehand.

Where each image is answered on its own, a task is done again with half as many images shown to
the defense at a time. Where the answers depend on the batch it is not cut: an error says so, with
the memory that the batch needs.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from dentbench.attacks.base import Classifier
from dentbench.attacks.chunked import Chunked
from dentbench.compute.cuda_graphs import stop_recording
from dentbench.compute.malloc import hand_back_memory
from dentbench.errors import DeviceMemoryError
from dentbench.evaluation.input_checks.user_errors import errors_in_words
from dentbench.evaluation.memory.footprint import HEAVY, free, in_words, there
from dentbench.evaluation.memory.out_of_memory import (
    SCRATCH,
    asked_for,
    is_out_of_memory,
    suspected,
)
from dentbench.evaluation.workers.prepared_model import PreparedModel
from dentbench.spec.evaluation import DefenseSpec, EvalSpec

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class MicroBatcher:
    """How many images of a spec are shown to a model and its defenses at a time."""

    def __init__(self, model: PreparedModel) -> None:
        self.model = model
        self._sizes: dict[Any, int] = {}
        self._foreseen: set[Any] = set()

    def size(self, spec: EvalSpec) -> int | None:
        """Return how many images of a spec are shown at a time; None while all of a batch are."""
        return self._sizes.get(_kind(spec))

    def learn(self, spec: EvalSpec, size: int | None) -> None:
        """Take over another worker's size, if it is smaller."""
        if size is not None:
            self._sizes[_kind(spec)] = min(size, self.size(spec) or size)

    def shown(self, spec: EvalSpec, classify: Classifier) -> Classifier:
        """Return a classifier of a spec, in parts where there is no room for all of a batch."""
        size = self.size(spec)
        return classify if size is None else Chunked(classify, size, self.model.counter)

    def fit(self, spec: EvalSpec, stage: str, work: Callable[[], Result]) -> Result:
        """Return the result of ``work``, done again from its start while memory runs out.

        It is to show classifiers as :meth:`shown` returns them. Passes of a try that failed are
        not counted. Raises :class:`~dentbench.errors.DeviceMemoryError` where the batch cannot be
        cut without changing an answer, or not further, and :class:`~dentbench.errors.ModelError`
        where the model fails or has no gradient.
        """
        self._shrink_preemptively(spec, stage)
        counter = self.model.counter
        while True:
            before = counter.forwards, counter.backwards
            try:
                return work()
            except Exception as error:  # that of a CPU's allocator is a plain RuntimeError
                if not is_out_of_memory(error):
                    told = errors_in_words(self.model.network, error)
                    if told is error:
                        raise  # with its own cause, the line of a user's code
                    raise told from error
                asked = asked_for(error)
            # Out here, where the error no longer holds the tensors that filled the memory.
            counter.forwards, counter.backwards = before
            self._free()
            self._halve(spec, stage, asked)

    def _shrink_preemptively(self, spec: EvalSpec, stage: str) -> None:
        """Cut a batch beforehand where a CPU's memory would not suffice, or warn.

        A full GPU raises an error; a full machine ends the process. Only stages that are large
        beside free memory are measured, once each, and no user's defense, which may remember that
        it was asked.
        """
        work = (_kind(spec), stage)
        own = isinstance(spec.defense, DefenseSpec) and spec.defense.sha256
        if self.model.device.type != "cpu" or own or work in self._foreseen:
            return
        self._foreseen.add(work)
        whole = min(spec.batches.size, spec.data.count)
        there_is = free()
        if there_is is None or suspected(self.model.inputs.images[0], whole) < there_is:
            return
        wanted = SCRATCH * (self.model.need(spec, stage) or 0)
        size = now = self.size(spec) or whole
        while size > 1 and wanted * size > there_is * whole:
            size //= 2
        if size == now:
            return
        said = f"{spec.label} {stage}: {_images(whole)} may need {in_words(wanted)}, and "
        said += f"{in_words(there_is)} are free; "
        if self.model.why_whole(spec):
            _log.warning("%sthe system may end this process", said)
            return
        self._sizes[_kind(spec)] = size
        _log.warning("%sgoing on with %d at a time (same answers)", said, size)

    def _halve(self, spec: EvalSpec, stage: str, asked: str) -> None:
        device = self.model.device
        whole = min(spec.batches.size, spec.data.count)
        now = self.size(spec) or whole
        why = self.model.why_whole(spec) if now == whole else ""
        if now == 1 and not why:
            why = "that is with one image at a time, which cannot be cut further"
        if why:
            bytes_ = self.model.need(spec, stage)
            needs = f", which needs at least {in_words(bytes_)}" if bytes_ else ""
            less = "; other protocols need less (--protocol)" if stage in HEAVY else ""
            raise DeviceMemoryError(
                f"{spec.label} {stage}: out of memory with a batch of {_images(whole)}{needs} "
                f"({asked}); {there(device)}; {why}; every finished batch is kept, and the same "
                f"command goes on from there where there is more memory{less}"
            )
        self._sizes[_kind(spec)] = now // 2
        _log.warning(
            "%s: out of %smemory with %s at a time; going on with %d (same answers)",
            spec.label,
            "GPU " if device.type == "cuda" else "",
            _images(now),
            now // 2,
        )

    def _free(self) -> None:
        gc.collect()
        if self.model.device.type == "cuda":
            stop_recording()
            torch.cuda.empty_cache()
        else:
            hand_back_memory()


def _kind(spec: EvalSpec) -> Any:
    return spec.defense, spec.batches


def _images(count: int) -> str:
    return f"{count} image" + ("s" if count > 1 else "")
