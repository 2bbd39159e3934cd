"""Helpers of several test modules: specs, subjects and runs of tiny networks, and records."""

from __future__ import annotations

import csv
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks import autoattack
from dentbench.attacks.catalogue import DEFAULT_PROTOCOLS
from dentbench.cli import app
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.progress.events import Progress
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.workers.placement import Placement
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import Record
from dentbench.records.outcome_arrays import from_arrays
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DataSpec, DentSpec, EvalSpec, ModelSpec
from tests.attacks.toys import labels_of, small_network, tiny_images

ROOT = Path(__file__).parents[1]

FUNCTION_LINES, MODULE_LINES = 42, 330
"""The most lines of a function, without its signature and docstring, and of a module."""


def forget_modules(prefix: str) -> None:
    """Drop every imported module whose name begins so; the next import reads its file again."""
    for name in [name for name in sys.modules if name.startswith(prefix)]:
        del sys.modules[name]


def shorten_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let AutoAttack standard's parts take 20 steps and 200 queries: enough for a linear model."""
    set_budget = autoattack._set_budget

    def fewer(attack: Any, plan: Any, spec: AttackSpec, name: str, classes: int) -> None:
        steps = spec.iterations or plan.iterations or 20
        set_budget(attack, plan, replace(spec, iterations=steps), name, classes)
        if name == "square":
            attack.n_queries = min(attack.n_queries, 200)

    monkeypatch.setattr(autoattack, "_set_budget", fewer)


# --- runs of a small network ----------------------------------------------------------------------

COUNT, SIZE = 7, 3
NOT_COMPARED = {"time", "seconds", "time_ratio", "device", "versions", "git_revision"}
ATTACK = AttackSpec(name="quick", eps=Fraction(1, 50), iterations=2, targets=1)
DENT = DentSpec(steps=1, lr=0.05)
DENT_ALONE = DentSpec(steps=2, lr=0.05, loss="entropy")


def subject(count: int = COUNT, network: nn.Module | None = None) -> RunInputs:
    """Images that the network gets right, but for number 2."""
    x = tiny_images(16)
    y = labels_of(small_network(), x)
    y[2] = (y[2] + 1) % 5
    return RunInputs(network=network or small_network(), images=x[:count], labels=y[:count])


def spec_of(defense: DentSpec | None = DENT, count: int = COUNT, **changes: Any) -> EvalSpec:
    settings = {"batches": BatchPlan(size=SIZE), "attack": ATTACK, "seed": 4, **changes}
    return EvalSpec(
        model=ModelSpec(name="small", sha256="ab"),
        data=DataSpec(name="noise", sha256=f"of {count}", first=0, count=count),
        defense=defense,
        **settings,
    )


def evaluated(
    results: Path,
    specs: Sequence[EvalSpec] = (spec_of(None), spec_of()),
    network: nn.Module | None = None,
    progress: Progress | None = None,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    **options: Any,
) -> list[Record]:
    """Evaluate the specs as a process of its own would."""
    given = subject(specs[0].data.count, network)
    return Evaluation(given, RunOptions(results=results, **options), progress).run(specs, protocols)


def compared(record: Record) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name not in NOT_COMPARED}


def outcomes(results: Path) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Every stored outcome but its seconds, and its points, by file."""
    result = {}
    for path in sorted(results.glob("runs/*/*/*.npz")):
        with np.load(path) as archive:
            outcome = asdict(from_arrays(archive))
            points = archive["points"].tobytes() if "points" in archive.files else b""
        del outcome["seconds"]
        result[str(path.relative_to(results))] = (outcome, points)
    return result


# --- runs in other processes ----------------------------------------------------------------------

BATCHES = 3


def until(result: Callable[[], Any]) -> Any:
    """Return the first result; fail if that takes five minutes, as on no machine that works."""
    limit = time.monotonic() + 300
    while not (it := result()):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return it


class Net(nn.Module):
    """A small network; where ``dies`` names a file that is not there, it makes it and dies.

    ``born``: a folder in which every process that shows it a batch leaves a file. ``seconds``: how
    long it takes at least in other processes. ``gate``: a folder; once it has ``closed``, other
    processes stop in the middle of a batch until it has ``open``.
    """

    STOPS_AT = 8
    """The call after which a process waits at the gate: an attack has begun by then."""

    def __init__(
        self,
        dies: Path | None = None,
        always: bool = False,
        born: Path | None = None,
        seconds: float = 0,
        gate: Path | None = None,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
        self.dies = dies
        self.always = always
        self.born = born
        self.seconds = seconds
        self.gate = gate
        self.calls = 0
        self.home = os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        away = os.getpid() != self.home and len(x) > 1
        if away:
            time.sleep(self.seconds)
        if away and self.gate and (self.gate / "closed").exists():
            self.calls += 1
            if self.calls == self.STOPS_AT:
                until((self.gate / "open").exists)
        if away and self.born:
            (self.born / str(os.getpid())).touch()
        mortal = self.dies and away
        if self.dies and mortal and (self.always or not self.dies.exists()):
            self.dies.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        logits: Tensor = self.layers(x)
        return logits


def all_stored(
    results: Path,
    placement: Placement,
    network: nn.Module | None = None,
    progress: Progress | None = None,
) -> Any:
    """Run a static and a coupled and a separable dent; return all that is on disk of it."""
    torch.manual_seed(1)
    images, network = torch.rand(4 * BATCHES - 1, 3, 6, 6), network or Net()
    with torch.no_grad():
        labels = network(images).argmax(1)
    static = EvalSpec(
        model=ModelSpec(name="net", sha256="0" * 64),
        data=DataSpec(name="noise", sha256="0" * 64, first=0, count=len(images)),
        batches=BatchPlan(size=4),
        attack=AttackSpec(name="quick", eps=Fraction(1, 50), iterations=3, targets=1),
    )
    defenses = (DentSpec(steps=2), DentSpec(mode="batch", steps=2))
    specs = [static, *(replace(static, defense=defense) for defense in defenses)]
    options = RunOptions(results=results, placement=placement)
    subject = RunInputs(network=network, images=images, labels=labels)
    evaluation = Evaluation(subject, options, progress)
    protocols = ["published", "transfer", "surrogate"]
    evaluation.run(specs, protocols)
    result = {}
    for spec in specs:
        for stage in ("natural", *(protocols if spec.defense else ["published"])):
            for unit in range(BATCHES):
                folder = RunFolder(results, spec)
                outcome, points = folder.load(stage, unit), folder.points(stage, unit)
                assert outcome is not None
                stored = None if points is None else points.tobytes()
                result[spec.label, stage, unit] = asdict(replace(outcome, seconds=0)), stored
    return result


# --- the command line -----------------------------------------------------------------------------

UNCHECKED = """
from dentbench.attacks.checks import ORDER, PLANTED, Check
from dentbench.compute import memory_format
from dentbench.evaluation import record_maker
from dentbench.evaluation.checks import sanity_checks
from dentbench.evaluation.workers.worker import Worker

Worker.require_same_network = lambda *_: None
sanity_checks.probe = lambda _: ()
sanity_checks.order = lambda _: Check(ORDER, None, None, "not asked in this test")
record_maker.planted = lambda *_: Check(PLANTED, None, None, "not asked in this test")
memory_format.ROUNDS = memory_format.TIMES = 1
"""
"""What a new process runs before the command: no checks, as in this one, and short timings."""


class Run:
    """Runs ``dentbench`` in this process and returns (exit code, standard output, errors)."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        folder: Path,
    ) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        self.results = folder / "results"
        monkeypatch.chdir(folder)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["dentbench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        printed = self.capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    def rows(self, results: str | Path | None = None) -> list[dict[str, str]]:
        folder = self.results if results is None else Path(results)
        with (folder / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))


class Forked:
    """``dentbench`` in a process of its own, a fork of this one, where torch is loaded already.

    Its output goes into files in ``folder``, as into a pipe. It has the shortcuts of the test.
    """

    def __init__(
        self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.out, self.err = (folder / name for name in ("forked.out", "forked.err"))
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            for number, path in ((1, self.out), (2, self.err)):
                with path.open("wb") as file:
                    os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(environment or {})
            os.chdir(folder)
            sys.argv = ["dentbench", *arguments]
            app.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def running(self) -> bool:
        """Return whether it has not ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def ended(self, seconds: float = 300) -> tuple[int, str, str]:
        """Wait for it; return its exit code, standard output and errors."""
        deadline = time.monotonic() + seconds
        while self.running():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert self.code is not None
        return self.code, self.out.read_text(), self.err.read_text()


# --- records --------------------------------------------------------------------------------------


def record(number: int, **changes: Any) -> Record:
    values = {
        "key": f"{number:016x}",
        "time": "2026-11-22T08:00:00Z",
        "model": "digits-robust",
        "model_sha256": "a" * 64,
        "dataset": "UCI digits (test)",
        "data_sha256": "b" * 64,
        "first": 0,
        "count": 512,
        "order": "given",
        "mode": "static",
        "separable": True,
        "attack": "standard",
        "attack_label": "AutoAttack standard",
        "norm": "Linf",
        "eps": "0.15",
        "batch_size": 128,
        "batching": "declared",
        "protocol": "published",
        "seed": 0,
        "n": 512,
        "natural_correct": 505,
        "robust_correct": 347,
        "worst_protocol": "published",
        "by_protocol": '{"published": 347}',
        "broken_by": "{}",
        "forwards": 1,
        "backwards": 1,
        "seconds": 1.5,
        "device": "cpu",
        "versions": "{}",
        "git_revision": "",
    }
    return Record(**{**values, **changes})
