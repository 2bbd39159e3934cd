"""Scale the time of a run on a GPU that is not at hand from times measured on another GPU.

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
    """Return the measurements: the GPUs by name, and the networks timed on the measured GPU."""
    text = files("dentbench.evaluation.estimates").joinpath(FILE).read_text(encoding="utf-8")
    measured: Mapping[str, Any] = json.loads(text)
    return measured


def names() -> tuple[str, ...]:
    """Return the GPUs that times can be estimated for, such as "h100"."""
    return tuple(figures()["gpus"])


@dataclass(frozen=True)
class Forecast:
    """The speed of a network on a GPU, and a sentence on its source."""

    speed: Speed
    source: str


def forecast(gpu: str, precision: str, network: nn.Module, image: Tensor) -> Forecast:
    """Return how fast a network is expected to be on a GPU.

    The measured network that is nearest in arithmetic (on a logarithmic scale) is scaled by the
    ratio of the two; a network below the smallest counts as the smallest, for launches take the
    time there. ``gpu``: one of :func:`names`; ``precision``: "fp32", "tf32" or
    "bf16"; ``image``: (1, C, H, W).
    """
    measured, wanted = figures(), operations(network, image)
    networks = measured["networks"]
    nearest = min(networks, key=lambda name: abs(math.log(wanted / networks[name]["flops"])))
    smallest = min(timed["flops"] for timed in networks.values())
    ratio = max(wanted, smallest) / networks[nearest]["flops"]
    kind = measured["gpus"][gpu]
    seconds = (
        networks[nearest]["seconds"][precision] * ratio * kind["factor"] * measured["overhead"]
    )
    source = (
        f"{kind['title']}, {precision}: {nearest} as measured on an {measured['device']} (torch "
        f"{measured['torch']}, CUDA graphs, batches of {measured['batch']}; {measured['source']}), "
        f"times {ratio:.2f} for this network's arithmetic and {measured['overhead']:.2f} for the "
        f"rest of a whole evaluation{kind['why']}"
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
