"""Adaptation on a CPU against its floor, and against the released algorithm in plain PyTorch.

Times what an attack asks for at every iterate: logits, and the images' gradient. The
floor of N steps is arithmetic: N + 1 times that of the static network, in the memory layout that
ours uses. The released algorithm runs in a process of its own, as PyTorch comes, and in ours, which
keeps the memory that it frees. Every instruction set and number of threads has new processes,
because PyTorch reads them at its start: ``python -m tests.benchmarks.adaptation`` measures the one
that the environment asks for.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.compute.backend import Engine
from dentbench.zoo.models import load_model
from tests.benchmarks.elsewhere import elsewhere
from tests.benchmarks.pairs import Work, ratio, times
from tests.benchmarks.released import ReleasedDent

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """The works timed on a network; see :func:`tests.benchmarks.pairs.times`."""

    batch: int
    shape: tuple[int, int, int]
    calls: int = 1
    rounds: int = 5
    seconds: float = 60.0
    steps: int = 6


SUBJECTS = {
    "digits-robust": Subject(128, (1, 8, 8), calls=5, rounds=7),
    "cifar10-resnet20-robust": Subject(64, (3, 32, 32)),
    "AutoAttackResNet18": Subject(16, (3, 32, 32), rounds=2, seconds=30),
}
DRY = {"digits-robust": Subject(2, (1, 8, 8), rounds=1, steps=2)}

INSTRUCTION_SETS: Mapping[str, Mapping[str, str]] = {
    "all": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
"""Which of the CPU's instructions PyTorch and oneDNN may use, and the environment that says so."""


def configurations(
    allowed: Mapping[str, Mapping[str, str]] = INSTRUCTION_SETS,
    threads: Sequence[int] = (1, 2),
    dry: bool = False,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the measurements so far, after every instruction set with every number of threads.

    An instruction set is left out where the CPU has no other. ``dry``: tiny, to see that it runs.
    """
    result: list[dict[str, Any]] = []
    for count in threads:
        for name, asked in allowed.items():
            if not result or not _has_only(name, result[0]):
                measured = _in_new_process(asked, count, dry)
                result.append({"instructions allowed": name, **measured})
                yield result


def _has_only(name: str, everything: Mapping[str, Any]) -> bool:
    """Tell whether an instruction set is all that the CPU has."""
    return name == everything["PyTorch"] and name in everything["oneDNN"].split()


def _in_new_process(asked: Mapping[str, str], threads: int, dry: bool) -> dict[str, Any]:
    count = str(threads)
    environment = {**os.environ, **asked, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    command = [sys.executable, "-m", __name__, *(["--dry"] if dry else [])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(subjects: Mapping[str, Subject]) -> dict[str, Any]:
    """Return what this process computes with, and the seconds and ratios of every subject."""
    return {
        "PyTorch": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": onednn_instructions(),
        "threads": torch.get_num_threads(),
        "networks": {name: compare(name, subject) for name, subject in subjects.items()},
    }


@functools.cache
def onednn_instructions() -> str:
    """Return the instruction set that oneDNN says it uses, which it does once in a process."""
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                nn.Conv2d(16, 16, 3)(torch.rand(4, 16, 8, 8))
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        match = re.search(r"cpu,isa:(.*)", file.read().decode())
    return match[1].strip() if match else "not told"


def attack_gradient(classify: nn.Module, x: Tensor) -> None:
    """The works of an attack at every iterate: logits, and the images' gradient of a loss."""
    x = x.clone().requires_grad_()
    logits = classify(x)
    torch.autograd.grad(logits.logsumexp(1).sum(), x)


def network_and_noise(name: str, subject: Subject) -> tuple[nn.Module, Tensor]:
    """Return a network, as it comes, and a batch of noise."""
    torch.manual_seed(0)
    network = load_model(name).network.eval().requires_grad_(False)
    return network, torch.rand(subject.batch, *subject.shape)


def released_works(name: str, subject: Subject) -> dict[str, Work]:
    """Return the times of the released algorithm."""
    network, x = network_and_noise(name, subject)
    released = ReleasedDent(network, subject.steps)
    return {"released alone": lambda: attack_gradient(released, x)}


def compare(name: str, subject: Subject) -> dict[str, Any]:
    """Return the median seconds of one network's works, and the ratios that matter."""
    plain, x = network_and_noise(name, subject)
    beside = ReleasedDent(plain, subject.steps)
    ours = Dent(plain, DentSpec(steps=subject.steps))
    static = Engine.chosen(plain, CPU, x[:2]).prepare(plain, CPU, x[:2])
    with torch.no_grad():
        few = x[:4]
        assert (ours(few) - beside(few)).abs().mean() < 1e-2  # the same algorithm, on noise
    with elsewhere(released_works, name, subject) as released:
        works: dict[str, Work] = {
            "static": lambda: attack_gradient(static, x),
            "dent": lambda: attack_gradient(ours, x),
            "released in one process": lambda: attack_gradient(beside, x),
            **released,
        }
        result = times(works, subject.rounds, calls=subject.calls, limit=subject.seconds)
    cpu = {work: item.cpu for work, item in result.items()}
    wall = {work: item.wall for work, item in result.items()}
    return {
        "batch": subject.batch,
        "steps": subject.steps,
        "rounds": len(cpu["dent"]),
        "calls in a row": subject.calls,
        "CPU time": summary(cpu, subject.steps),
        "wall time": summary(wall, subject.steps),
    }


def summary(seconds: Mapping[str, list[float]], steps: int) -> dict[str, Any]:
    """Return the medians of the works' seconds, and of the rounds' ratios that have a goal."""
    ours = seconds["dent"]
    floor = [(steps + 1) * item for item in seconds["static"]]
    return {
        "seconds": {work: round(median(item), 5) for work, item in seconds.items()},
        "dent over floor": round(ratio(ours, floor), 3),
        "released over dent, one process": round(
            ratio(seconds["released in one process"], ours), 3
        ),
        "released over dent, alone": round(ratio(seconds["released alone"], ours), 3),
    }


if __name__ == "__main__":
    print(json.dumps(measure(DRY if "--dry" in sys.argv else SUBJECTS)))
