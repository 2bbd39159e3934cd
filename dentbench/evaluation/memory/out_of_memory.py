"""Recognize running out of memory, report it, and decide whether a batch can be cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier
from dentbench.attacks.checks import SAME
from dentbench.attacks.probes.base import relative_change
from dentbench.errors import DeviceMemoryError, first_line
from dentbench.evaluation.memory.footprint import in_words, there
from dentbench.spec.evaluation import EvalSpec

_SAID: Final = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "alloc_failed",
    "could not create a primitive",
)
"""Messages, in lower case, of errors that have no type of their own: of the CPU's allocator,
of C++, cuDNN and cuBLAS, and of oneDNN, which gives no other reason."""

_SUSPECT: Final = 30_000
"""The bytes per byte of tensors that :func:`suspected` takes."""

SCRATCH: Final = 2
"""The most bytes that a CPU's libraries take for each byte of tensors kept."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a GPU, or the machine's, is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _SAID)


@contextmanager
def raise_on_oom(part: str, device: str | torch.device) -> Iterator[None]:
    """Turn running out of memory into a sentence: ``part`` does not fit."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(
            f"{part} does not fit into memory ({asked_for(error)}); {there(device)}; every "
            "finished batch is kept, and the same command goes on from there"
        ) from None


def suspected(image: Tensor, count: int) -> int:
    """Return more bytes of a CPU's memory than most networks take for so many images."""
    return _SUSPECT * count * image.nbytes


def asked_for(error: BaseException) -> str:
    """Return the size of the last request, where the error names it, else its own message."""
    match = re.search(r"tried to allocate (\d+(?:\.\d+)?) ?(\w+)", str(error), re.IGNORECASE)
    if match is None:
        return first_line(error)
    plain = match[2] == "bytes"
    return f"asked for {in_words(int(match[1])) if plain else ' '.join(match.groups())} more"


# --- whether a batch can be cut -------------------------------------------------------------------

FEW: Final = 4
"""The number of images asked about, together and each alone."""


@torch.no_grad()
def why_whole(spec: EvalSpec, classify: Classifier, images: Tensor) -> str:
    """Return why a spec's batch cannot be cut without changing answers, or "" if it can.

    A defense that is declared not to be separable is believed. A separable defense is tried on the
    first of ``images`` (N, C, H, W): together and alone they must get the same answers, and no
    random number may be drawn.
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
            if is_out_of_memory(error):  # even for a single image
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
