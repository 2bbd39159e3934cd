"""Where tasks are carried out: in this process, in others, on other devices, or on a Ray cluster.

Whatever carries them out, the outcomes are the same, and only the process that asks for them
writes anything down.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from dentbench.checks import require_choice, require_count
from dentbench.errors import DentBenchError, SpecError, WorkerError

if TYPE_CHECKING:
    from dentbench.checkpoint import Points
    from dentbench.engine.plan import Engine
    from dentbench.outcome import BatchOutcome
    from dentbench.spec import DefenseSpec
    from dentbench.worker import Subject, Task, Worker

EXECUTORS: Final = ("local", "ray")
COMPILING: Final = ("auto", "on", "off")

RETRIES: Final = 3
"""How often work goes on after a worker process has died."""

AHEAD: Final = 2
"""How many tasks per worker are handed out at a time: the next one is there when one is done."""

Finished: TypeAlias = "tuple[BatchOutcome, Points | None]"
"""The outcome of a task, and its points where they are wanted."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where tasks are carried out.

    ``executor``: one of :data:`EXECUTORS`. ``devices``: of the workers, in turns; "cpu", "cuda"
    or "cuda:N". ``workers``: how many at a time; by default one per device. ``threads`` of each,
    by default torch's own choice for one worker, an equal share of the cores for several.
    ``address``: of a Ray cluster that is there; by default one is started for the run.
    ``compiling``: one of :data:`COMPILING`; "auto" compiles on GPUs alone.
    """

    executor: str = "local"
    devices: tuple[str, ...] = ("cpu",)
    workers: int | None = None
    threads: int | None = None
    address: str | None = None
    compiling: str = "auto"

    def __post_init__(self) -> None:
        require_choice("executor", self.executor, EXECUTORS)
        require_choice("compile", self.compiling, COMPILING)
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None:
                require_count(name, value, 1)
        if self.address is not None and self.executor != "ray":
            raise SpecError("address is of a Ray cluster; it needs --executor ray")

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self.workers or len(self.devices)

    @property
    def threads_each(self) -> int | None:
        """How many threads a worker has; None leaves it to torch."""
        if self.threads is not None or (self.count == 1 and self.executor == "local"):
            return self.threads
        return max(1, (os.cpu_count() or 1) // self.count)


class Executor(Protocol):
    """Carries out tasks; the finished ones come in any order."""

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield what becomes of each task, as soon as it is done."""


def make_executor(
    placement: Placement,
    worker: Worker,
    engine: Engine,
    given: Mapping[DefenseSpec, Any] | None,
) -> Executor:
    """Return what carries out tasks where they are to be; ``worker`` is this process's own.

    All compute with ``engine``.
    Raises :class:`~dentbench.errors.SpecError` where Ray is asked for and not installed, and
    :class:`~dentbench.errors.WorkerError` where the model cannot be sent to other processes.
    """
    if placement.executor == "ray":
        return RayCluster((worker.subject, engine, given), placement)
    if placement.count == 1:
        return Serial(worker)
    return Processes((worker.subject, engine, given), placement)


Blueprint: TypeAlias = "tuple[Subject, Engine, Mapping[DefenseSpec, Any] | None]"
"""What a worker is made of."""


def _pickled(blueprint: Blueprint, dumps: Callable[[object], bytes]) -> bytes:
    try:
        return dumps(blueprint)
    except Exception as error:
        raise WorkerError(
            f"the model or the defense cannot be sent to other processes ({error}); use one worker"
        ) from error


class Serial:
    """One task after the other, in this process."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield what becomes of each task, in order."""
        return map(self.worker.carry_out, tasks)


class Processes:
    """Tasks in processes of this machine, each with a device; they start when they are needed."""

    def __init__(self, blueprint: Blueprint, placement: Placement) -> None:
        self.blueprint = _pickled(blueprint, pickle.dumps)
        self.placement = placement
        self._pool: ProcessPoolExecutor | None = None

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield what becomes of each task; one whose process died is carried out again."""
        pending: dict[Future[Finished], Task] = {}
        deaths = 0
        try:
            self._submit(pending, tasks)
            while pending:
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        finished = future.result()
                    except BrokenProcessPool:
                        deaths += 1
                        if deaths > RETRIES:
                            raise _gave_up() from None
                        again = iter([*pending.values()])
                        pending.clear()
                        self._pool = None
                        self._submit(pending, again, len(pending) or None)
                        break
                    del pending[future]
                    yield finished
                self._submit(pending, tasks)
        except BaseException:
            self._stop()
            raise

    def _submit(
        self, pending: dict[Future[Finished], Task], tasks: Iterator[Task], most: int | None = None
    ) -> None:
        """Hand out tasks until every worker has enough to do."""
        room = self.placement.count * AHEAD - len(pending) if most is None else most
        for task in islice(tasks, max(0, room)):
            self._pool = self._pool or self._started()
            pending[self._pool.submit(_carry_out, task)] = task

    def _started(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        devices = context.SimpleQueue()
        for number in range(self.placement.count):
            devices.put(self.placement.devices[number % len(self.placement.devices)])
        return ProcessPoolExecutor(
            self.placement.count,
            context,
            initializer=_begin,
            initargs=(self.blueprint, devices, self.placement.threads_each),
        )

    def _stop(self) -> None:
        """End the processes at once: what they are at is not wanted any more."""
        if self._pool is None:
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        self._pool = None


class RayCluster:
    """Tasks of a Ray cluster, each with one GPU or a number of CPUs."""

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
        self.blueprint = ray.put(_pickled(blueprint, ray.cloudpickle.dumps))
        demands = {"num_gpus": 1} if gpu else {"num_cpus": threads}
        self.remote = ray.remote(max_retries=RETRIES, **demands)(_carry_out_on_ray)
        self.fixed = (str(self.blueprint), "cuda" if gpu else "cpu", threads)

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield what becomes of each task; Ray itself carries out again what a death lost."""
        pending: list[Any] = []
        while True:
            # No task ahead: a cluster with more processors would start it at once.
            for task in islice(tasks, self.placement.count - len(pending)):
                pending.append(self.remote.remote(self.blueprint, *self.fixed, task))
            if not pending:
                return
            (done, *_), pending = self.ray.wait(pending, num_returns=1)
            try:
                yield self.ray.get(done)
            except (
                self.ray.exceptions.WorkerCrashedError,
                self.ray.exceptions.OutOfMemoryError,
            ):
                raise _gave_up() from None
            except self.ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, DentBenchError):
                    raise error.cause from None  # Ray's own text is a traceback
                raise


def _gave_up() -> WorkerError:
    return WorkerError(
        f"worker processes died {RETRIES + 1} times, for lack of memory perhaps; every finished "
        "batch is kept, so run the same command again with fewer workers; a smaller --batch-size "
        "is another defense where batch mates matter"
    )


# --- in a worker process --------------------------------------------------------------------------

_workers: dict[str, Worker] = {}  # made once per process, by the name of their blueprint


def _begin(blueprint: bytes, devices: Any, threads: int | None) -> None:
    """Make this process's worker, on the next device."""
    with suppress(ValueError):  # Ctrl-C is for the process that asks, which ends this one
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker("", blueprint, devices.get(), threads)


def _carry_out(task: Task) -> Finished:
    return _workers[""].carry_out(task)


def _carry_out_on_ray(
    blueprint: bytes, name: str, device: str, threads: int, task: Task
) -> Finished:
    return _worker(name, blueprint, device, threads).carry_out(task)


def _worker(name: str, blueprint: bytes, device: str, threads: int | None) -> Worker:
    if name not in _workers:
        import torch

        from dentbench.worker import Worker

        if threads is not None:
            torch.set_num_threads(threads)
        subject, engine, given = pickle.loads(blueprint)
        _workers.clear()
        _workers[name] = Worker(subject, device, engine, given)
    return _workers[name]
