"""How long a run would take on a GPU that is not at hand: scaled from one that was measured.

``python -m tests.gpu.speeds`` makes the figures beside this file of ``results/benchmarks``.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import torch
from torch import Tensor, nn

from dentbench.evaluation.estimates.duration import Speed

FILE: Final = "measured_gpus.json"


@functools.cache
def figures() -> Mapping[str, Any]:
    """Return what was measured: the GPUs by name, and the networks timed on the measured one."""
    text = files("dentbench.evaluation.estimates").joinpath(FILE).read_text(encoding="utf-8")
    measured: Mapping[str, Any] = json.loads(text)
    return measured


def names() -> tuple[str, ...]:
    """Return the GPUs that times can be told for, such as "h100"."""
    return tuple(figures()["gpus"])


@dataclass(frozen=True)
class Forecast:
    """The speed of a network on a GPU, and the sentence that says what it is scaled from."""

    speed: Speed
    source: str


def forecast(gpu: str, precision: str, network: nn.Module, image: Tensor) -> Forecast:
    """Return how fast a network is expected to be on one GPU of a kind.

    The measured network that is nearest in arithmetic (on a logarithmic scale) is scaled by the
    ratio of the two; a smaller one than the smallest counts as the smallest, for it is launches
    that take the time there. ``gpu``: one of :func:`names`; ``precision``: "fp32", "tf32" or
    "bf16"; ``image``: (1, C, H, W).
    """
    known, wanted = figures(), operations(network, image)
    networks = known["networks"]
    nearest = min(networks, key=lambda name: abs(math.log(wanted / networks[name]["flops"])))
    smallest = min(timed["flops"] for timed in networks.values())
    ratio = max(wanted, smallest) / networks[nearest]["flops"]
    kind = known["gpus"][gpu]
    seconds = networks[nearest]["seconds"][precision] * ratio * kind["factor"] * known["overhead"]
    source = (
        f"{kind['title']}, {precision}: {nearest} as measured on one {known['device']} (torch "
        f"{known['torch']}, CUDA graphs, batches of {known['batch']}; {known['source']}), times "
        f"{ratio:.2f} for this network's arithmetic and {known['overhead']:.2f} for what a whole "
        f"evaluation takes beside it{kind['why']}"
    )
    return Forecast(Speed(seconds, seconds), source)


@torch.no_grad()
def operations(network: nn.Module, image: Tensor) -> int:
    """Return the floating-point operations of convolutions and products in one forward pass.

    ``image``: (1, C, H, W).
    """
    from torch.utils.flop_counter import FlopCounterMode  # loads Triton

    with FlopCounterMode(display=False) as counter:
        network(image)
    return max(1, int(counter.get_total_flops()))
