"""Measure the bytes of memory that a batch needs, on a few images, and that a device has."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dentbench.attacks.base import Classifier, offers
from dentbench.attacks.catalogue import BLACK_BOXES
from dentbench.attacks.protocols.gradient import unrolled_defense
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import EvalSpec

_FORWARD_ONLY: Final = (NATURAL, "transfer", "surrogate", "bpda", *BLACK_BOXES)
"""The stages that ask the defense for answers, and for no gradient."""

HEAVY: Final = ("gmsa-avg", "gmsa-min", "unrolled", "surrogate-process", "batch-mates")
"""The protocols that keep the graphs of several forward passes at a time."""


def memory_kind(stage: str) -> str:
    """Return which of four kinds a stage is: all of a kind take the same memory for a spec."""
    if stage.startswith("gmsa"):
        return "gmsa"
    if stage in HEAVY:
        return "unrolled"
    return "answers" if stage in _FORWARD_ONLY else "gradient"


def needed(spec: EvalSpec, stage: str, defense: Any, network: Classifier, images: Tensor) -> int:
    """Return about how many bytes a stage's tensors take for a batch, beside the model.

    Measured with two and with four of ``images`` (N, C, H, W), on their device, and drawn out in a
    straight line to the batch's size. ``defense`` and ``network``: those of the spec. On a CPU the
    scratch space of libraries comes on top: on a ResNet-18 the resident memory grew by 1.1 to 1.9
    times as much.
    """
    count = min(spec.batches.size, spec.data.count)
    look = look_of(spec, stage, defense, network)
    gradient = memory_kind(stage) != "answers"
    few, more = (min(size, count, len(images)) for size in (2, 4))
    low = peak(look, images[:few], gradient)
    if count <= few:
        return low
    high = peak(look, images[:more], gradient)
    each = (high - low) / (more - few) if more > few else low / few
    return int(low + each * (count - few))


def look_of(spec: EvalSpec, stage: str, defense: Any, network: Classifier) -> Classifier:
    """Return the function, images to logits, that a stage differentiates at a time."""
    kind = memory_kind(stage)
    if kind == "unrolled" and "unroll" in offers(defense):
        return unrolled_defense(defense, spec)
    if kind != "gmsa":
        return defense  # type: ignore[no-any-return]

    def all_networks(x: Tensor) -> Tensor:
        adaptation = defense.adapt(x)
        rounds = [defense.predict(x, adaptation) for _ in range(spec.protocols.rounds - 1)]
        return torch.stack([network(x), *rounds]).sum(0)

    return all_networks


def peak(look: Classifier, images: Tensor, gradient: bool = True) -> int:
    """Return the most bytes that ``look`` takes at a time, with or without its gradient."""
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        if not images.is_cuda:
            kind = _LiveUncompiled if "torch._dynamo" in sys.modules else _Live
            with kind() as live:
                _run(look, images, gradient)
            return int(live.most)
        _run(look, images, gradient)  # a library's first allocations are not counted
        before = torch.cuda.memory_allocated(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        _run(look, images, gradient)
        most: int = torch.cuda.max_memory_allocated(images.device)
        return most - before


def _run(look: Classifier, images: Tensor, gradient: bool) -> None:
    leaf = images.detach().clone().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        logits = look(leaf)
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf, allow_unused=True)


class _Live(TorchDispatchMode):
    """Adds up the bytes of all tensors made inside the block while they live; ``most`` of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._now = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not load torch's compiler for this mode: that takes longer than most measurements."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        handed_in = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in handed_in:  # else it is a view, as of weights
                self._see(storage)
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name not in self._known:
            self._known.add(name)
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._known.discard(name)
        self._now -= size


class _LiveUncompiled(_Live):
    """The same where the compiler is loaded already: it compiles nothing of the mode."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


# --- memory of a device ---------------------------------------------------------------------------

_GROUP: Final = Path("/sys/fs/cgroup")
"""Where a container's limits are, if it has any."""


def there(device: str | torch.device) -> str:
    """Describe a device's memory in words."""
    device = torch.device(device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"{device} has {in_words(total)}, {in_words(free)} of them free"
    if sys.platform == "win32":
        return "see how much memory this machine has"
    return f"this process may use {in_words(machine())}"


def machine() -> int:
    """Return the bytes that this process may use: the machine's, or a limit's that is lower."""
    import resource  # there is none on Windows

    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    with suppress(OSError, ValueError):
        limits.append(int((_GROUP / "memory.max").read_text()))
    return min(limits)


def free() -> int | None:
    """Return the bytes that the machine could still give to its processes; None if unknown.

    Less where a container's limit leaves less. None but on Linux.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 2**10 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return None
    with suppress(OSError, ValueError):  # no container, or a container without a limit
        limit, used = (int((_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        available = min(available, max(limit - used, 0))
    return available


def in_words(size: int) -> str:
    """Return a number of bytes such as "1.2 GiB"."""
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"
