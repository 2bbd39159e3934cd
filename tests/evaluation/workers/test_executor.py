"""Whoever carries the tasks out, and however often one dies at it: the same outcomes."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dentbench.attacks.counting import CallCounter
from dentbench.compute.backend import Engine
from dentbench.errors import SpecError, WorkerError
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.workers import process_pool
from dentbench.evaluation.workers.placement import Placement
from tests.evaluation.workers.recorder import Recorder
from tests.helpers import Net, all_stored, until

RAY = Placement(executor="ray", workers=2, threads=1)
LOCAL = Placement(workers=2, threads=1)


PATIENCE = {
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_failure_threshold": "100",
    "RAY_memory_monitor_refresh_ms": "0",
}
"""Ray's settings by which a busy machine is not taken for a dead one, nor ends a worker."""


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in PATIENCE.items():
            monkeypatch.setenv(name, value)
        yield ray
        ray.shutdown()


def test_a_process_for_each_device_leaves_the_same_bits(serial: Any, tmp_path: Path) -> None:
    assert all_stored(tmp_path, Placement(devices=("cpu", "cpu", "cpu"), threads=1)) == serial


def test_processes_leave_the_same_bits_and_tell_how_far_they_are(
    serial: Any, alone: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between batches too, and by the end of a stage every pass, as where there is one process.

    The processes stop in the middle of their first batch until passes and an attack are told.
    """
    monkeypatch.setattr(process_pool, "POLL_SECONDS", 1e-2)
    stage = "net instance published"
    shared = Recorder(tmp_path, stage)
    assert all_stored(tmp_path / "shared", LOCAL, Net(gate=tmp_path), shared) == serial
    assert (tmp_path / "open").exists()
    assert shared.passes.keys() == alone.passes.keys()
    for title, counts in shared.passes.items():
        assert counts == sorted(counts) and counts[-1] == alone.passes[title][-1]
    assert stage in dict(shared.attacks) and set(shared.attacks) <= set(alone.attacks)


def test_what_is_sent_with_a_process_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe takes 64 KiB: with more, each process would wait for the start of the one before."""
    sent: list[Any] = []
    monkeypatch.setattr(
        process_pool, "ProcessPoolExecutor", lambda *_, initargs, **__: sent.extend(initargs)
    )
    network, noise = nn.Linear(200, 200), torch.zeros(1)
    blueprint = RunInputs(network=network, images=noise, labels=noise), Engine(), None
    pool = process_pool.Processes(blueprint, LOCAL, CallCounter())
    pool._started()
    assert len(pool.blueprint) > 2**16
    assert not any(isinstance(item, bytes | str) for item in sent)
    subject, *_ = pickle.loads(sent[0].raw)
    assert torch.equal(subject.network.weight, network.weight)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at /proc")
def test_workers_end_with_the_process_that_asks(tmp_path: Path) -> None:
    """Killed without warning, it leaves no process behind that works for nobody."""
    born = tmp_path / "born"
    born.mkdir()
    arguments = (tmp_path / "results", LOCAL, Net(born=born, seconds=0.05))
    process = multiprocessing.get_context("fork").Process(target=all_stored, args=arguments)
    process.start()

    def workers() -> list[int]:
        actual = {int(path.name) for path in born.iterdir()} - {process.pid}
        return list(actual) if len(actual) == LOCAL.count else []

    pids = until(workers)
    assert all(map(runs, pids))
    process.kill()
    process.join()
    until(lambda: not any(map(runs, pids)))


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("placement", [LOCAL, RAY])
def test_a_death_costs_nothing(
    placement: Placement, serial: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The same bits, on Ray too, which is started for this alone."""
    if placement is RAY:
        request.getfixturevalue("ray")
    marker = tmp_path / "died"
    assert all_stored(tmp_path / "results", placement, Net(marker)) == serial
    assert marker.exists()


def test_a_network_that_always_dies_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="died 4 times"):
        all_stored(tmp_path / "results", LOCAL, Net(tmp_path / "died", always=True))


def test_a_network_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    network = Net()
    network.hook = lambda x: x  # type: ignore[assignment]
    with pytest.raises(WorkerError, match="cannot be sent"):
        all_stored(tmp_path, LOCAL, network)


def test_ray_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SpecError, match=r"pip install 'dentbench\[ray\]'"):
        all_stored(tmp_path, RAY)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"executor": "slurm"}, "executor is 'slurm'"),
        ({"workers": 0}, "workers is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"address": "auto"}, "needs --executor ray"),
    ],
)
def test_bad_placements_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Placement(**bad)
