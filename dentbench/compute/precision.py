"""Precision below float32: of a network, and of a GPU's arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from dentbench.compute.benchmark import least_seconds, work_on
from dentbench.compute.timing_cache import key_of, remembered

_log = logging.getLogger(__name__)

FILE: Final = "precisions.json"
"""The file of the cache folder with the time of bfloat16 over float32, by machine and network."""

ROUNDS: Final = 5
SECONDS: Final = 3.0
"""How often each precision is timed, and after how long no further round begins."""

PAYS: Final = 0.9
"""The most of float32's time that bfloat16 may take to be worth its rounding."""


class Bfloat16(nn.Module):
    """A network (B, C, H, W) -> (B, classes) in automatic mixed precision; its logits are float32.

    Convolutions and matrix products compute in bfloat16, 8 bits of precision; operations sensitive
    to that stay in float32 (PyTorch, https://pytorch.org/docs/stable/amp.html).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.network(x)
        return logits.float()


def bfloat16_time(network: nn.Module, images: Tensor, cache: Path) -> float | None:
    """Return how long a network's forward and gradient take in bfloat16, float32's being 1.

    ``images`` (B, C, H, W): a batch, on the network's device. ``cache``: the folder where it is
    remembered; None where nothing can be written there, or memory runs out.
    """

    def measure() -> float:
        works = [work_on(version, images) for version in (network, Bfloat16(network))]
        exact, low = least_seconds(works, ROUNDS, SECONDS)
        return low / exact

    try:
        key = key_of(network, images.device, tuple(images.shape))
        ratio: float = remembered(
            cache / FILE, key, measure, lambda value: isinstance(value, float)
        )
    except (OSError, RuntimeError) as error:
        _log.debug("the time of bfloat16 is not known: %s", error)
        return None
    return ratio


def full_float32() -> None:
    """Let a GPU compute float32 in float32, and twice the same: by default it does neither.

    PyTorch's convolutions use TensorFloat-32 unless that is forbidden, and may add up in another
    order each time (https://pytorch.org/docs/stable/notes/randomness.html).
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def tensor_float32(allowed: bool) -> Iterator[None]:
    """Let a GPU's convolutions and matrix products use TensorFloat-32, 10 bits, or forbid it."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def arithmetic() -> tuple[bool, bool]:
    """Return the arithmetic that :func:`tensor_float32` set, in which results were computed."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
