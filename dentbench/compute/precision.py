"""Precision below float32: of a network, and of a GPU's arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Bfloat16(nn.Module):
    """A network (B, C, H, W) -> (B, classes) in automatic mixed precision; its logits are float32.

    Convolutions and matrix products compute in bfloat16, 8 bits of precision; what is sensitive to
    that stays in float32 (PyTorch, https://pytorch.org/docs/stable/amp.html).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.network(x)
        return logits.float()


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
    """Return what :func:`tensor_float32` allows now: what is kept was computed in one of these."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
