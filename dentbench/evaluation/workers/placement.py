"""Place the work of a run: on which devices, by how many workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Literal

from dentbench.errors import SpecError
from dentbench.validation import require_choice, require_count

EXECUTORS: Final = ("local", "ray")
COMPILING: Final = ("auto", "off")

AUTO: Final = "auto"
"""As many workers as are faster, see :mod:`dentbench.evaluation.workers.worker_count`."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where tasks are carried out.

    ``executor``: one of :data:`EXECUTORS`. ``devices``: of the workers, in turns; "cpu", "cuda"
    or "cuda:N". ``workers``: how many at a time; by default one per device, and with "auto" on
    CPUs as many as are faster. ``threads`` of each, by default torch's own choice for one
    worker, an equal share of the cores for several.
    ``address``: of a Ray cluster that is there; by default a cluster is started for the run.
    ``compiling``: one of :data:`COMPILING`; "auto" records CUDA graphs on GPUs.
    """

    executor: str = "local"
    devices: tuple[str, ...] = ("cpu",)
    workers: int | Literal["auto"] | None = None
    threads: int | None = None
    address: str | None = None
    compiling: str = "auto"

    def __post_init__(self) -> None:
        require_choice("executor", self.executor, EXECUTORS)
        require_choice("compile", self.compiling, COMPILING)
        for name in ("workers", "threads"):
            value = getattr(self, name)
            if value is not None and (name, value) != ("workers", AUTO):
                require_count(name, value, 1)
        if self.address is not None and self.executor != "ray":
            raise SpecError("address is of a Ray cluster; it needs --executor ray")

    @property
    def count(self) -> int:
        """The number of workers; one per device until the best number is timed."""
        return self.workers if isinstance(self.workers, int) else len(self.devices)

    @property
    def threads_each(self) -> int | None:
        """How many threads a worker has; None leaves it to torch."""
        if self.threads is not None or (self.count == 1 and self.executor == "local"):
            return self.threads
        return max(1, (os.cpu_count() or 1) // self.count)


_NOT_SUPPORTED: Final = {
    "mps": "Apple's GPUs have no float64, which the checks and the random numbers of attacks need",
    "xpu": "it was never run there",
    "npu": "it was never run there",
    "hpu": "it was never run there",
    "tpu": "it was never run there",
    "xla": "it was never run there",
}
"""Devices of torch that are refused, and why."""


def device_named(name: str) -> str:
    """Return a device that is there: "auto", "cpu", "cuda" or "cuda:N"; else SpecError."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if name == "cpu":
        return name
    if kind in _NOT_SUPPORTED:
        raise SpecError(
            f"device is {name!r}, which DentBench does not compute on: {_NOT_SUPPORTED[kind]}; use "
            "--device cpu, or cuda on a machine with an NVIDIA GPU"
        )
    if kind != "cuda" or (number and not number.isdigit()):
        raise SpecError(f"device is {name!r}; allowed: auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise SpecError(f"device is {name!r}, but torch sees no CUDA GPU here; use --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise SpecError(f"device is {name!r}, but there are {torch.cuda.device_count()} GPUs")
    return name
