"""Choose how a network is computed: once, and the same in all workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dentbench.compute.bn_relu_fusion import joined_if_same
from dentbench.compute.malloc import keep_freed_memory
from dentbench.compute.memory_format import is_channels_last_faster
from dentbench.compute.precision import full_float32
from dentbench.containment import torch_settings_kept
from dentbench.errors import ModelError, first_line


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How networks are computed; it changes the last bits of their answers, and no more.

    ``channels_last``: the layout of convolutions. ``captured``: whole adaptations, and answers with
    their gradients, are recorded as CUDA graphs (:mod:`dentbench.compute.cuda_graphs`).
    """

    channels_last: bool = False
    captured: bool = False

    @classmethod
    def chosen(
        cls,
        network: nn.Module,
        device: torch.device,
        images: Tensor,
        compiling: str = "off",
        cache: Path | None = None,
    ) -> Engine:
        """Return the faster way to compute a network on a device.

        ``images`` (B, C, H, W) in [0, 1]: some to time it on. ``compiling``: "off", or
        "auto", which records on GPUs. ``cache``: where timings are
        remembered; None times nothing.
        """
        gpu = device.type == "cuda"
        full_float32()  # time exactly the work that will be run
        network = _ready(network, device)
        with torch_settings_kept():
            last = is_channels_last_faster(network, device, images, cache)
        return cls(
            channels_last=last,
            captured=compiling != "off" and gpu,
        )

    def prepare(self, network: nn.Module, device: torch.device, images: Tensor) -> nn.Module:
        """Return the network on ``device``, in eval mode, without gradients to its weights.

        ``images`` (B, C, H, W) in [0, 1]: some to try it on. The network itself is moved.
        """
        network = _ready(network, device)
        full_float32()
        _prepare_memory(device)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return joined_if_same(network, images.to(device))


def prepared_by_rule(network: nn.Module, images: Tensor) -> nn.Module:
    """Return a network as an engine prepares it that nothing was timed for.

    ``images`` (B, C, H, W) in [0, 1]: some to try it on, on the network's device. The network
    itself is changed.
    """
    _prepare_memory(images.device)
    if is_channels_last_faster(network, images.device, images, None):
        network = network.to(memory_format=torch.channels_last)
    return joined_if_same(network, images)


def _prepare_memory(device: torch.device) -> None:
    if device.type == "cpu":
        keep_freed_memory()


def in_eval_mode(network: nn.Module) -> nn.Module:
    """Put a network into eval mode and return it.

    Raises :class:`~dentbench.errors.ModelError` for one that has no modes, as an exported program.
    """
    try:
        network.eval()  # its result is not used: a method of a user may return nothing
    except NotImplementedError as error:
        raise ModelError(
            f"the model cannot be put into eval mode ({first_line(error)}); hand in the "
            "module that it was exported from"
        ) from error
    return network


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    network.to(device)
    in_eval_mode(network)
    for parameter in network.parameters():  # a ScriptModule has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return network
