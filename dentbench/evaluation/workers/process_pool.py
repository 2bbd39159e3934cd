"""Carry out tasks in processes of this machine, which report progress and end with their parent.

Each worker process has a place in shared memory: it writes there how many passes it has made and
which attack runs, and the process that waits for its outcomes reads it. There is no lock, so a
process that is killed holds up no other.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dentbench.attacks.attack_events import AttackBegan, announce, listen
from dentbench.errors import WorkerError, first_line
from dentbench.identity.user_code import working_folder_first

if TYPE_CHECKING:
    from dentbench.attacks.counting import CallCounter
    from dentbench.compute.backend import Engine
    from dentbench.evaluation.inputs import RunInputs
    from dentbench.evaluation.workers.placement import Placement
    from dentbench.evaluation.workers.worker import Task, Worker
    from dentbench.records.checkpoint import Points
    from dentbench.records.outcome import BatchOutcome
    from dentbench.spec.evaluation import DefenseSpec

RETRIES: Final = 3
"""How often work goes on after a worker process has died."""

LOADED_LATE: Final = "torch.fx.experimental.symbolic_shapes"
"""Torch loads this, in a second, at dent's first step: whoever forks processes loads it first."""

AHEAD: Final = 2
"""Tasks per worker that are handed out at a time: the next is there when a task is done."""

POLL_SECONDS: Final = 0.25
"""The seconds between two readings of the workers' progress."""

_HOME: Final = os.getpid()
"""The process that this module was loaded by."""

Finished: TypeAlias = "tuple[BatchOutcome, Points | None]"
"""The outcome of a task, and its points where they are wanted."""

Blueprint: TypeAlias = "tuple[RunInputs, Engine, Mapping[DefenseSpec, Any] | None]"
"""The parts that a worker is made of."""


def pickled(blueprint: Blueprint, dumps: Callable[[object], bytes] = pickle.dumps) -> bytes:
    """Return a blueprint as bytes; WorkerError where it cannot be sent to other processes."""
    try:
        return dumps(blueprint)
    except Exception as error:
        raise WorkerError(
            f"the model or the defense cannot be sent to other processes ({error}); use one worker"
        ) from error


def gave_up() -> WorkerError:
    """Return the message for workers that died too often."""
    return WorkerError(
        f"worker processes died {RETRIES + 1} times, for lack of memory perhaps; every finished "
        "batch is kept, so run the same command again with fewer workers (--workers 1); a smaller "
        "--batch-size is another defense where batch mates matter"
    )


class Place(ctypes.Structure):
    """A worker's shared counters: passes in all, and the attack that it began last.

    ``version`` is odd while the attack is being written.
    """

    _fields_ = (
        ("forwards", ctypes.c_longlong),
        ("backwards", ctypes.c_longlong),
        ("version", ctypes.c_longlong),
        ("left", ctypes.c_longlong),
        ("images", ctypes.c_longlong),
        ("attack", ctypes.c_char * 32),
    )


class Processes:
    """Tasks in processes, each with a device; they start when they are needed.

    ``counter`` counts their passes and calls its listener; listeners to attacks are called too.
    """

    def __init__(self, blueprint: Blueprint, placement: Placement, counter: CallCounter) -> None:
        self.blueprint = pickled(blueprint)
        self.placement = placement
        self.counter = counter
        self._pool: ProcessPoolExecutor | None = None
        self._places: Any = ()
        self._seen: list[tuple[int, int, int]] = []

    def map(self, tasks: Iterator[Task]) -> Iterator[Finished]:
        """Yield the result of each task; repeat tasks whose process died."""
        pending: dict[Future[Finished], Task] = {}
        deaths = 0
        try:
            self._submit(pending, tasks)
            while pending:
                done, _ = wait(pending, POLL_SECONDS, return_when=FIRST_COMPLETED)
                self._look()
                for future in done:
                    try:
                        finished = future.result()
                    except BrokenProcessPool:
                        deaths += 1
                        if deaths > RETRIES:
                            raise gave_up() from None
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
            try:
                future = self._pool.submit(_carry_out, task)
            except BrokenProcessPool as error:  # a process has died since: as if it had this task
                future = Future()
                future.set_exception(error)
            pending[future] = task

    def _started(self) -> ProcessPoolExecutor:
        count, devices = self.placement.count, self.placement.devices
        context = _context(devices)
        self._places = context.RawArray(Place, count)
        # In memory that is shared: data sent with a process make the start of the next process
        # wait until this process has imported everything and reads them.
        blueprint = context.RawArray(ctypes.c_char, len(self.blueprint))
        blueprint.raw = self.blueprint
        self._seen = [(0, 0, 0)] * count
        numbers = context.SimpleQueue()
        for number in range(count):
            numbers.put((number, devices[number % len(devices)]))
        return ProcessPoolExecutor(
            count,
            context,
            initializer=_begin,
            initargs=(
                blueprint,
                numbers,
                self.placement.threads_each,
                self._places,
                dict(os.environ),
            ),
        )

    def _look(self) -> None:
        """Report the passes of the workers since the last report, and their attacks."""
        for number, place in enumerate(self._places):
            forwards, backwards, version = self._seen[number]
            now = place.forwards, place.backwards
            begun = place.version, place.attack, place.left, place.images
            if begun[0] != place.version or begun[0] % 2:  # it is being written: at the next look
                begun = (version, b"", 0, 0)
            self._seen[number] = (*now, begun[0])
            if begun[0] != version:
                announce(begun[1].decode(errors="replace"), *begun[2:])
            if now != (forwards, backwards):
                self.counter.add(now[0] - forwards, now[1] - backwards)

    def _stop(self) -> None:
        """End the processes at once: their results are not wanted any more."""
        if self._pool is None:
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        self._pool = None


def _context(devices: Sequence[str]) -> Any:
    """Return the context that starts processes: on CPUs forks of a server that loaded libraries.

    The server has run nothing, so that the first process costs one start, and later processes next
    to none. Processes that use a GPU start by themselves, for a driver may not be forked, and so do
    processes that a fork of this process asks for: the server is not its own.
    """
    if os.getpid() != _HOME or any(device != "cpu" for device in devices):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dentbench.evaluation.workers.worker", LOADED_LATE])
    return context


# --- in a worker process --------------------------------------------------------------------------

_workers: dict[str, Worker] = {}  # made once per process, by the name of their blueprint
_refused: list[str] = []  # why this process could not make its worker


def worker_of(name: str, blueprint: bytes, device: str, threads: int | None) -> Worker:
    """Return this process's worker, made at the first call; ``name`` is its blueprint's."""
    if name not in _workers:
        import torch

        from dentbench.evaluation.workers.prepared_model import PreparedModel
        from dentbench.evaluation.workers.worker import Worker

        if threads is not None:
            torch.set_num_threads(threads)
        with working_folder_first():  # where the model or the defense may be imported from
            inputs, engine, given = pickle.loads(blueprint)
        _workers.clear()
        _workers[name] = Worker(PreparedModel(inputs, device, engine, given))
    return _workers[name]


def _begin(
    blueprint: Any, numbers: Any, threads: int | None, places: Any, environment: Mapping[str, str]
) -> None:
    """Make this process's worker, on the next device, and let it report its progress.

    ``environment``: of the process that asks, which may have changed since the first process began.
    """
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(ValueError):  # Ctrl-C is for the parent, which ends this process
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr  # prints of users' code do not go into a result
    number, device = numbers.get()
    try:
        worker = worker_of("", blueprint.raw, device, threads)
    except Exception as error:  # a process that dies here would be started again, in vain
        _refused.append(first_line(error))
        return
    place, counter = places[number], worker.counter

    def write_passes() -> None:
        place.forwards, place.backwards = counter.forwards, counter.backwards

    counter.listen = write_passes
    listen(partial(_write_attack, place))


def _end_with_parent() -> None:
    """End this process with its parent, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_attack(place: Place, event: AttackBegan) -> None:
    """Write to a worker's place which attack runs."""
    place.version += 1
    place.attack = event.attack.encode()[:31]
    place.left, place.images = event.left, event.images
    place.version += 1


def _carry_out(task: Task) -> Finished:
    if _refused:
        raise WorkerError(
            f"a worker process cannot load the model or the defense: {_refused[0]}; import them "
            "from files of the working folder or from installed packages, or run with --workers 1"
        )
    return _workers[""].carry_out(task)
