"""How a network is computed, where that is free to choose: memory, its layout, and precision.

Measured on processors, forward and gradient take about 0.85 of the time in channels_last, on the
embedded networks and on a ResNet-18 alike. The choice is a rule, not a timed probe: a probe could
choose otherwise when a run is resumed, and the last bits of its logits with it.
"""

from __future__ import annotations

import copy
import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
"""Two parameters of glibc's ``mallopt`` (its ``malloc.h``)."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and use it again; return whether it can.

    By default glibc hands large blocks back to the system at once, and every activation of every
    forward pays for fresh pages: up to a fifth of the time on two cores. What a run takes at most
    grows by less than a tenth. Only glibc has this setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def prepared(network: nn.Module, device: torch.device, images: Tensor) -> nn.Module:
    """Return the network on ``device``, in eval mode, without gradients to its weights.

    ``images`` (B, C, H, W) in [0, 1]: some to try it on. The network itself is moved, and its
    convolutions are laid out channels_last where that is faster and the network can be run so.
    """
    network = network.to(device).eval().requires_grad_(False)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # it is by default, and fp32 is to mean fp32
    if device.type == "cpu" and _runs_channels_last(network, images.to(device)):
        network = network.to(memory_format=torch.channels_last)
    return network


def _runs_channels_last(network: nn.Module, images: Tensor) -> bool:
    """Return whether a copy of the network has convolutions, and a gradient when laid out so.

    Some networks flatten with ``view``, which refuses what is not contiguous.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return False
    try:
        trial = copy.deepcopy(network).to(memory_format=torch.channels_last)
        with torch.random.fork_rng(), torch.enable_grad():
            x = images.clone().requires_grad_()
            torch.autograd.grad(trial(x).sum(), x)
    except Exception:  # whatever it is: the plain layout tells it in its own place
        return False
    return True


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
