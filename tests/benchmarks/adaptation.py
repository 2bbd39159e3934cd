"""Adaptation against its floor, and against the released algorithm in plain PyTorch.

The released algorithm runs in a process of its own, as PyTorch comes: how this process uses memory
would be lent to it otherwise; that is measured too. The floor of N steps is arithmetic: N times
(forward + gradient to the activations) + 1 forward of the static network, in the memory layout
that ours uses.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.compute.backend import Engine
from dentbench.compute.precision import Bfloat16
from dentbench.zoo.download.cache import default_cache
from dentbench.zoo.models import load_model
from tests.benchmarks.elsewhere import elsewhere
from tests.benchmarks.pairs import Work, ratio, timed
from tests.benchmarks.released import ReleasedDent

STEPS = 6
SUBJECTS = {
    "AutoAttackResNet18": (64, (3, 32, 32), 1, 7),
    "cifar10-resnet20-robust": (128, (3, 32, 32), 1, 15),
    "digits-robust": (128, (1, 8, 8), 10, 25),
}
"""Each network's batch, image shape, how many calls in a row are timed together, and how often.

What is compared is timed within seconds of each other: a shared machine is at times slower.
"""


def attack_gradient(classify: nn.Module, x: Tensor) -> None:
    """What an attack asks for at every iterate: logits, and the images' gradient of a loss."""
    x = x.clone().requires_grad_()
    logits = classify(x)
    torch.autograd.grad(logits.logsumexp(1).sum(), x)


@torch.no_grad()
def logits(classify: nn.Module, x: Tensor) -> None:
    classify(x)


def subject(name: str, device: torch.device) -> tuple[nn.Module, Tensor]:
    """Return one of :data:`SUBJECTS`, as it comes, and a batch of noise."""
    batch, shape, *_ = SUBJECTS[name]
    torch.manual_seed(0)
    network = load_model(name).network.to(device).eval().requires_grad_(False)
    return network, torch.rand(batch, *shape, device=device)


def released_works(name: str, device: torch.device) -> dict[str, Work]:
    """Return what the released algorithm is timed at."""
    network, x = subject(name, device)
    released = ReleasedDent(network, STEPS)
    return {
        "released": lambda: logits(released, x),
        "released, attack gradient": lambda: attack_gradient(released, x),
    }


def measure(name: str, device: torch.device) -> dict[str, Any]:
    """Return the median seconds of one network's works, and the ratios that matter."""
    plain, x = subject(name, device)
    beside = ReleasedDent(plain, STEPS)
    engine = Engine.chosen(plain, device, x[:32], cache=default_cache())
    network = engine.prepare(plain, device, x[:1])
    ours, low = (
        Dent(one, DentSpec(steps=STEPS), prepare=False) for one in (network, Bfloat16(network))
    )
    with torch.no_grad():
        assert (ours(x) - beside(x)).abs().mean() < 1e-2  # the same algorithm, on noise
        agreement = float((ours(x).argmax(1) == low(x).argmax(1)).float().mean())
    *_, calls, rounds = SUBJECTS[name]
    with elsewhere(released_works, name, device) as released:
        works = {
            "static forward": lambda: logits(network, x),
            "static forward and gradient": lambda: attack_gradient(network, x),
            "dent": lambda: logits(ours, x),
            "released": released["released"],
            "dent, attack gradient": lambda: attack_gradient(ours, x),
            "released, attack gradient": released["released, attack gradient"],
            "dent bf16, attack gradient": lambda: attack_gradient(low, x),
            "released in this process, attack gradient": lambda: attack_gradient(beside, x),
        }
        seconds = timed(works, rounds, calls=calls)
    return {
        "batch": len(x),
        "rounds": rounds,
        "calls in a row": calls,
        "seconds": {work: round(median(found), 5) for work, found in seconds.items()},
        **ratios(seconds),
        "bf16 agreement": agreement,
    }


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return the floor, and the medians over the rounds of what is compared with what."""
    forward, gradient = seconds["static forward"], seconds["static forward and gradient"]
    floor = [STEPS * g + f for f, g in zip(forward, gradient, strict=True)]
    released = seconds["released, attack gradient"]
    beside = seconds["released in this process, attack gradient"]
    ours = seconds["dent, attack gradient"]
    compared = {
        "dent over floor": (seconds["dent"], floor),
        "released over dent": (seconds["released"], seconds["dent"]),
        "released over dent, attack gradient": (released, ours),
        "released over dent bf16, attack gradient": (
            released,
            seconds["dent bf16, attack gradient"],
        ),
        "released in this process over dent, attack gradient": (beside, ours),
    }
    found = {what: round(ratio(*pair), 3) for what, pair in compared.items()}
    return {"floor": round(median(floor), 5), **found}
