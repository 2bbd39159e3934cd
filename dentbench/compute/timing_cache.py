"""Keep timings of this machine in the cache folder, so that each is taken once.

They are kept because a choice by them changes the last bits: a resumed run must compute as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn


def remembered(
    path: Path, key: str, find: Callable[[], Any], is_sound: Callable[[Any], bool]
) -> Any:
    """Return the value of ``key`` in the JSON file ``path``; if none is sound, measure it now.

    Other values that are not sound are dropped. One process at a time. Raises :class:`OSError`
    where the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        known = {name: value for name, value in _read(path).items() if is_sound(value)}
        if key not in known:
            known[key] = find()
            new = path.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(known, indent=0))
            new.replace(path)
        return known[key]


def key_of(network: nn.Module, device: torch.device, shape: tuple[int, ...]) -> str:
    """Return the key of a timing: the machine, torch, the input and the network's layers."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{cpu_model()} {os.cpu_count()} {torch.backends.cpu.get_cpu_capability()}"
    )
    made_of = [
        (type(module).__qualname__, str(module.extra_repr())) for module in network.modules()
    ]
    parts = (name, torch.get_num_threads(), torch.__version__, shape, made_of)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@cache
def cpu_model() -> str:
    """Return the name of the CPU, or its architecture where the system does not say more."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> dict[str, Any]:
    """Return the kept timings; none if the file is not there or not sound."""
    try:
        known = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
