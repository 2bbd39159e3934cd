"""One thread per test process: the tensors are tiny, and threads would only wait for each other.

And no cache, unless a test makes it: a rule chooses, and nothing is timed.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; subprocesses inherit it
os.environ["OMP_WAIT_POLICY"] = "passive"  # where there are two, none spins on a busy core
for _name in ("COLUMNS", "LINES"):  # which readline sets for the processes that pytest starts
    os.environ.pop(_name, None)
os.environ["DENTBENCH_CACHE"] = f"{os.devnull}/no-cache"

FEW = {
    "dentbench.attacks.probes.climbing": {"STEPS": 5, "SHORT": 3, "DRAWS": 2},
    "dentbench.attacks.probes.consistency": {"ALONE": 2},
    "dentbench.attacks.probes.gradients": {"STEPS": 5, "DRAWS": 2},
    "dentbench.attacks.probes.indicators": {"STEPS": 5, "SHORT": 3, "DRAWS": 2},
    "dentbench.attacks.probes.shapes": {"SHORT": 3, "SMALLER": ((0.25, 0.375), (0.75, 0.875))},
    "dentbench.attacks.probes.planting": {"IMAGES": 4, "DRAWS": 4, "FRESH": 2, "CHANGES": 2},
    "dentbench.attacks.probes.scores": {"GRID": 2, "HALVINGS": 2},
    "dentbench.evaluation.checks.planted": {"ITERATIONS": (3, 3)},
}
"""By module, the constants by which checks ask less, but about the same."""

CHECKS, RECORDS = ASKING = (
    "dentbench.evaluation.checks.sanity_checks",
    "dentbench.evaluation.record_maker",
)
"""The modules by which a run asks the defense for its checks."""

COMPARING = "Worker"
"""The class by which a run compares the network that it computes with the one handed in."""


def pytest_collection_finish() -> None:
    """Let no collection of garbage look again at what lives until the end: modules and tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _as_in_a_run() -> Iterator[Mapping[tuple[Any, str], Any]]:
    """Take shortcuts in every test; yield the originals, for tests that are marked.

    Set once, not for each of thousands of tests, and in force when fixtures of modules are made.
    """
    from dentbench.attacks.checks import ORDER, PLANTED, Check
    from dentbench.evaluation.fresh_judgement import judge_process, pristine
    from dentbench.evaluation.fresh_judgement.fork_server import SERVER
    from dentbench.evaluation.workers.worker import Worker

    def ask(asked: judge_process.JudgeRequest) -> dict[str, list[judge_process.Judged]]:
        network, given = pickle.loads(asked.pristine)
        with pristine._random_numbers_kept():
            return judge_process.judged(asked, network, given, isolated=False)

    # A test of something else learns nothing from two thirds of a small run: its checks.
    unasked = {name: Check(name, None, None, "not asked in this test") for name in (ORDER, PLANTED)}
    modules = {name: importlib.import_module(name) for name in ASKING}
    shortcuts: dict[tuple[Any, str], Any] = {
        (modules[CHECKS], "probe"): lambda _: (),
        (modules[CHECKS], "order"): lambda _: unasked[ORDER],
        (modules[RECORDS], "planted"): lambda *_: unasked[PLANTED],
        # Small networks are computed as they are: one test module compares what may differ.
        (Worker, "require_same_network"): lambda *_: None,
        # Final points are judged anew in this process: new ones take long.
        (judge_process.JudgeRequest, "ask"): ask,
        (SERVER, "start"): lambda: None,
        # Tests read what a killed process wrote, not what survives a loss of power.
        (os, "fsync"): lambda _: None,
    }
    for module, constants in FEW.items():
        for name, value in constants.items():
            shortcuts[importlib.import_module(module), name] = value
    whole = {(owner, name): getattr(owner, name) for owner, name in shortcuts}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for (owner, name), value in shortcuts.items():
            monkeypatch.setattr(owner, name, value)
        yield whole


def _undo(
    marked: pytest.Item | pytest.Module,
    whole: Mapping[tuple[Any, str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let a test or a module that is marked so do without a shortcut."""
    from dentbench.evaluation.fresh_judgement.fork_server import SERVER

    wholly = marked.get_closest_marker("whole_checks")
    checks = wholly or marked.get_closest_marker("checks")
    compares = checks or marked.get_closest_marker("same_network")
    processes = marked.get_closest_marker("new_processes")
    asked = dict.fromkeys(FEW, wholly) | dict.fromkeys(ASKING, checks)
    asked[COMPARING] = compares
    for (owner, name), value in whole.items():
        wanted = asked.get(getattr(owner, "__name__", ""), processes)
        if wanted and owner is not os:
            monkeypatch.setattr(owner, name, value)
    if processes:
        # Let no process that judges anew load pytest for a defense that is planted in a test.
        monkeypatch.setattr(SERVER, "preloaded", ("pytest", "hypothesis"))


@pytest.fixture(autouse=True, scope="module")
def _marked_modules(
    request: pytest.FixtureRequest, _as_in_a_run: Mapping[tuple[Any, str], Any]
) -> Iterator[None]:
    """Heed the marks of a module before its own fixtures are made."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _undo(request.node, _as_in_a_run, monkeypatch)
        yield


@pytest.fixture(autouse=True)
def _marked_tests(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    _as_in_a_run: Mapping[tuple[Any, str], Any],
) -> None:
    """Heed the marks of a test."""
    _undo(request.node, _as_in_a_run, monkeypatch)
