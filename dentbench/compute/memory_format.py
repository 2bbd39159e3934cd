"""A network's layout in memory: which is faster on this machine, timed once and remembered.

Remembered, because the layouts differ in the last bits: a run that is resumed, and all workers of
a run, are to compute in the same layout. Where nothing can be remembered, a rule decides.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from dentbench.compute.benchmark import least_seconds, work_on
from dentbench.compute.timing_cache import key_of, remembered

_log = logging.getLogger(__name__)

FILE: Final = "layouts.json"
"""The file of choices in the cache folder: whether channels_last, by machine and network."""

ROUNDS: Final = 9
SECONDS: Final = 3.0
"""How often each layout is timed, and after how long no further round begins."""

CLEARLY: Final = 0.9
"""The layout that is not the rule's must take at most this part of the time of the rule's."""

TIMES: Final = 3
"""How often that must be measured, since a wrong choice is remembered too."""


def is_channels_last_faster(
    network: nn.Module, device: torch.device, images: Tensor, cache: Path | None
) -> bool:
    """Return whether a network's forward and gradient are faster in channels_last.

    ``images`` (B, C, H, W): some to time it on. ``cache``: the folder where the choice is
    remembered; without one nothing is timed, and the rule is: on CPUs, where the network can be run
    so. Never true of a network that has no convolution, or that cannot be run so.
    """
    rule = device.type == "cpu"
    laid_out = _laid_out(network, images.to(device))
    if laid_out is None:
        return False
    if cache is None:
        return rule
    images = images.to(device)
    key = key_of(network, device, tuple(images.shape[1:]))

    def is_against_rule() -> bool:
        plain, last = _timed(copy.deepcopy(network), laid_out, images)
        _log.debug("channels_last %.4f s, plain %.4f s", last, plain)
        return plain < CLEARLY * last if rule else last <= CLEARLY * plain

    def find() -> bool:
        return rule is not all(is_against_rule() for _ in range(TIMES))

    try:
        return bool(remembered(cache / FILE, key, find, lambda value: isinstance(value, bool)))
    except (OSError, RuntimeError) as error:  # no place to remember it, or too little memory
        _log.debug("the faster layout is not known: %s", error)
        return rule


def _laid_out(network: nn.Module, images: Tensor) -> nn.Module | None:
    """Return a copy of the network in channels_last, if it has convolutions and can be run so.

    Some networks flatten with ``view``, which refuses tensors that are not contiguous.
    """
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return None
    try:
        trial = copy.deepcopy(network).to(memory_format=torch.channels_last)
        with torch.random.fork_rng():
            work_on(trial, images[:1])()
    except Exception:  # any error: the plain layout raises it in its own place
        return None
    return trial


def _timed(plain: nn.Module, laid_out: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return the least seconds of the two."""
    works = [work_on(version, images) for version in (plain, laid_out)]
    first, second = least_seconds(works, ROUNDS, SECONDS)
    return first, second
