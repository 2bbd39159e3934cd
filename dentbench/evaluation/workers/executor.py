"""Carry out tasks in this process, in others, on other devices, or on a Ray cluster.

The outcomes are the same everywhere, and only the process that asks for them
writes anything down.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from dentbench.errors import DentBenchError, SpecError, WorkerError
from dentbench.evaluation.workers.process_pool import (
    RETRIES,
    Blueprint,
    Finished,
    Processes,
    gave_up,
    pickled,
    worker_of,
)

if TYPE_CHECKING:
    from dentbench.evaluation.workers.placement import Placement
    from dentbench.evaluation.workers.worker import Task, Worker

_log = logging.getLogger(__name__)


class Executor(Protocol):
    """Carries out tasks, and yields finished tasks in any order."""

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield the result of each task, as soon as it is done."""


def make_executor(placement: Placement, worker: Worker, *, fall_back: bool = False) -> Executor:
    """Return the executor of a placement; ``worker`` is this process's own.

    The others are made of the same. ``fall_back``: where they cannot do it, this process does.
    Raises :class:`~dentbench.errors.SpecError` where Ray is asked for and not installed, and
    :class:`~dentbench.errors.WorkerError` where the model cannot be sent to other processes.
    """
    if placement.executor == "ray":
        return RayCluster(worker.blueprint, placement)
    if placement.count == 1:
        return Serial(worker)
    if fall_back:
        return FallbackExecutor(
            worker, lambda: Processes(worker.blueprint, placement, worker.counter)
        )
    return Processes(worker.blueprint, placement, worker.counter)


class Serial:
    """Carries out tasks in turn, in this process."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield the result of each task, in order."""
        return map(self.worker.carry_out, tasks)


class FallbackExecutor:
    """Use another executor as long as it can, and then this process's own worker."""

    def __init__(self, worker: Worker, others: Callable[[], Executor]) -> None:
        self.alone = Serial(worker)
        self.others: Executor | None = None
        with self._falling_back():
            self.others = others()

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield the result of each task; the rest is carried out here."""
        left: dict[tuple[str, int], Task] = {}

        def handed_out() -> Iterator[Task]:
            for task in tasks:
                left[task.stage, task.unit] = task
                yield task

        if self.others is not None:
            with self._falling_back():
                for finished in self.others.map(handed_out()):
                    del left[finished[0].stage, finished[0].index]
                    yield finished
        yield from self.alone.map(chain([*left.values()], tasks))

    @contextmanager
    def _falling_back(self) -> Iterator[None]:
        try:
            yield
        except WorkerError as error:
            _log.warning("%s; going on with one worker", str(error).partition(";")[0])
            self.others = None


class RayCluster:
    """Tasks of a Ray cluster, each with a GPU or a number of CPUs."""

    def __init__(self, blueprint: Blueprint, placement: Placement) -> None:
        try:
            ray: Any = importlib.import_module("ray")  # untyped here: it is an extra
        except ImportError:
            raise SpecError(
                "--executor ray needs Ray, which is not installed; install it with "
                "pip install 'dentbench[ray]', or use --executor local"
            ) from None
        self.ray = ray
        self.placement = placement
        threads = placement.threads_each or 1
        gpu = placement.devices[0].startswith("cuda")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not ray.is_initialized():
            own: dict[str, Any] = {"num_cpus": placement.count * (1 if gpu else threads)}
            where = {"address": placement.address} if placement.address else own
            try:
                ray.init(**where, include_dashboard=False, log_to_driver=False)
            except Exception as error:
                place = placement.address or "this machine"
                raise WorkerError(
                    f"Ray cannot be reached or started at {place}: {error}"
                ) from error
        self.blueprint = ray.put(pickled(blueprint, ray.cloudpickle.dumps))
        demands = {"num_gpus": 1} if gpu else {"num_cpus": threads}
        self.remote = ray.remote(max_retries=RETRIES, **demands)(_carry_out_on_ray)
        self.fixed = (str(self.blueprint), "cuda" if gpu else "cpu", threads)

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield the result of each task; Ray itself repeats tasks that a death lost."""
        # No task ahead: a cluster with more CPUs would start it at once.
        pending = [self._handed_out(task) for task in islice(tasks, self.placement.count)]
        while pending:
            following = next(tasks, None)
            (done, *_), pending = self.ray.wait(pending, num_returns=1)
            if following is not None:  # before the result is written down: nobody waits for that
                pending.append(self._handed_out(following))
            try:
                yield self.ray.get(done)
            except (
                self.ray.exceptions.WorkerCrashedError,
                self.ray.exceptions.OutOfMemoryError,
            ):
                raise gave_up() from None
            except self.ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, DentBenchError):
                    raise error.cause from None  # Ray's own text is a traceback
                raise

    def _handed_out(self, task: Task) -> Any:
        return self.remote.remote(self.blueprint, *self.fixed, task)


def _carry_out_on_ray(
    blueprint: bytes, name: str, device: str, threads: int, task: Task
) -> Finished:
    return worker_of(name, blueprint, device, threads).carry_out(task)
