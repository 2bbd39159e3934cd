"""Running out of memory: caught in one place, and what is done about it.

Where each image is answered on its own, a task is done again with half as many images shown to
the defense at a time. Where the answers depend on the batch it is not cut: that is told, with
what the batch needs.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier
from dentbench.attacks.checks import SAME
from dentbench.attacks.counting import CallCounter
from dentbench.attacks.probes.base import relative_change
from dentbench.compute.cuda_graphs import forget_recordings
from dentbench.compute.malloc import hand_back_memory
from dentbench.errors import DeviceMemoryError
from dentbench.evaluation.memory_footprint import free, in_words, there
from dentbench.spec.evaluation import DefenseSpec, EvalSpec

Result = TypeVar("Result")

_SAID: Final = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "alloc_failed",
    "could not create a primitive",
)
"""What errors say, in lower case, that are of no type of their own: of the processor's allocator,
of C++, cuDNN and cuBLAS, and of oneDNN, which says no more than that."""

_SUSPECT: Final = 30_000
"""See :func:`suspected`."""

SCRATCH: Final = 2
"""What a processor's libraries take, at most, for each byte of tensors that are kept."""

_log = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a GPU, or the machine's, is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _SAID)


@contextmanager
def raise_on_oom(what: str, device: str | torch.device) -> Iterator[None]:
    """Turn running out of memory into one sentence: ``what`` does not fit."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(
            f"{what} does not fit into memory ({_asked(error)}); {there(device)}; every "
            "finished batch is kept, and the same command goes on from there"
        ) from None


def suspected(image: Tensor, count: int) -> int:
    """Return far more bytes than most networks take of a processor's memory for so many images."""
    return _SUSPECT * count * image.nbytes


class MicroBatcher:
    """How many images at a time there is memory for, by defense; learnt by running out of it."""

    def __init__(self, device: torch.device, counter: CallCounter) -> None:
        self.device = device
        self.counter = counter
        self._sizes: dict[Any, int] = {}
        self._foreseen: set[Any] = set()

    def size(self, spec: EvalSpec) -> int | None:
        """Return how many images of a spec are shown at a time; None while all of a batch are."""
        return self._sizes.get(_kind(spec))

    def learn(self, spec: EvalSpec, size: int | None) -> None:
        """Take note of a size that was found elsewhere, if it is smaller."""
        if size is not None:
            self._sizes[_kind(spec)] = min(size, self.size(spec) or size)

    def fit(
        self,
        spec: EvalSpec,
        work: Callable[[], Result],
        why_whole: Callable[[], str],
        need: Callable[[], int | None],
    ) -> Result:
        """Return what ``work`` does, done again from its start while memory runs out.

        It is to heed :meth:`size`. Passes of a try that failed are not counted. ``why_whole()``
        says why the batch cannot be cut, or ""; ``need()`` how many bytes the whole of it takes.
        Raises :class:`~dentbench.errors.DeviceMemoryError` where it cannot be cut, or not further.
        """
        while True:
            before = self.counter.forwards, self.counter.backwards
            try:
                return work()
            except Exception as error:  # that of a processor's allocator is a plain RuntimeError
                if not is_out_of_memory(error):
                    raise
                asked = _asked(error)
            # Out here, where the error no longer holds the tensors that filled the memory.
            self.counter.forwards, self.counter.backwards = before
            self._free()
            self._halve(spec, asked, why_whole, need)

    def shrink_preemptively(
        self,
        spec: EvalSpec,
        stage: str,
        image: Tensor,
        why_whole: Callable[[], str],
        need: Callable[[], int | None],
    ) -> None:
        """Cut a batch beforehand where a processor's memory would not do, or warn.

        A full GPU says so; a full machine ends the process. Only what is large beside what is
        free is measured, once for every stage, and no defense of one's own, which may remember
        that it was asked. ``image``: one of the spec's.
        """
        known = (_kind(spec), stage)
        own = isinstance(spec.defense, DefenseSpec) and spec.defense.sha256
        if self.device.type != "cpu" or own or known in self._foreseen:
            return
        self._foreseen.add(known)
        whole = min(spec.batches.size, spec.data.count)
        there_is = free()
        if there_is is None or suspected(image, whole) < there_is:
            return
        wanted = SCRATCH * (need() or 0)
        size = now = self.size(spec) or whole
        while size > 1 and wanted * size > there_is * whole:
            size //= 2
        if size == now:
            return
        said = f"{spec.label} {stage}: {_images(whole)} may need {in_words(wanted)}, and "
        said += f"{in_words(there_is)} are free; "
        if why_whole():
            _log.warning("%sthe system may end this process", said)
            return
        self._sizes[_kind(spec)] = size
        _log.warning("%sgoing on with %d at a time (same answers)", said, size)

    def _halve(
        self,
        spec: EvalSpec,
        asked: str,
        why_whole: Callable[[], str],
        need: Callable[[], int | None],
    ) -> None:
        whole = min(spec.batches.size, spec.data.count)
        now = self.size(spec) or whole
        why = why_whole() if now == whole else ""
        if now == 1 and not why:
            why = "that is with one image at a time, which cannot be cut further"
        if why:
            bytes_ = need()
            needs = f", which needs at least {in_words(bytes_)}" if bytes_ else ""
            raise DeviceMemoryError(
                f"out of memory with a batch of {_images(whole)}{needs} ({asked}); "
                f"{there(self.device)}; {why}; every finished batch is kept, and the same command "
                "goes on from there where there is more memory"
            )
        self._sizes[_kind(spec)] = now // 2
        _log.warning(
            "%s: out of %smemory with %s at a time; going on with %d (same answers)",
            spec.label,
            "GPU " if self.device.type == "cuda" else "",
            _images(now),
            now // 2,
        )

    def _free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            forget_recordings()
            torch.cuda.empty_cache()
        else:
            hand_back_memory()


def _kind(spec: EvalSpec) -> Any:
    return spec.defense, spec.batches


def _asked(error: BaseException) -> str:
    """Return what was asked of memory last, where the error says it; else what it says."""
    found = re.search(r"tried to allocate (\d+(?:\.\d+)?) ?(\w+)", str(error), re.IGNORECASE)
    if found is None:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    plain = found[2] == "bytes"
    return f"asked for {in_words(int(found[1])) if plain else ' '.join(found.groups())} more"


def _images(count: int) -> str:
    return f"{count} image" + ("s" if count > 1 else "")


# --- whether a batch can be cut -------------------------------------------------------------------

FEW: Final = 4
"""How many images are asked about, together and one by one."""


@torch.no_grad()
def why_whole(spec: EvalSpec, classify: Classifier, images: Tensor) -> str:
    """Return why a spec's batch cannot be cut without changing answers, or "" if it can.

    A defense that is not separable is taken at its word. What is said to be is tried on the first
    of ``images`` (N, C, H, W): together and alone they must get the same answers, and no random
    number may be drawn.
    """
    coupled = "answers depend on batch mates, so the batch is not cut, and a smaller --batch-size "
    coupled += "would be another defense"
    if not spec.separable:
        return coupled
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        before = _random_state(images)
        try:
            alone = torch.cat([classify(image[None]) for image in images[:FEW]])
            together = _together(classify, images[:FEW])
        except (RuntimeError, ValueError, MemoryError) as error:
            if is_out_of_memory(error):  # of one image: that is told as what it is
                return ""
            return coupled  # as of batch normalization with statistics of the batch
        pairs = zip(before, _random_state(images), strict=True)
        if any(not torch.equal(*pair) for pair in pairs):
            return "it draws random numbers, which would be others in parts of the batch"
    return coupled if relative_change(alone[: len(together)], together) > SAME else ""


def _together(classify: Classifier, images: Tensor) -> Tensor:
    """Return the answer to as many images as there is room for at a time."""
    for size in range(len(images), 1, -1):
        try:
            return classify(images[:size])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    return classify(images[:1])


def _random_state(images: Tensor) -> tuple[Tensor, ...]:
    state = (torch.get_rng_state(),)
    return (*state, torch.cuda.get_rng_state(images.device)) if images.is_cuda else state
