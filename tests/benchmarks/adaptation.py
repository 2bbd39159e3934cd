"""Adaptation against its floor, and against the released algorithm in plain PyTorch.

The floor of N steps is arithmetic: N times (forward + gradient to the activations) + 1 forward of
the static network, in the memory layout that ours uses.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.engine import Bfloat16, prepared
from dentbench.zoo.models import load_model
from tests.benchmarks.pairs import ratio, timed
from tests.benchmarks.released import ReleasedDent

STEPS = 6
SUBJECTS = {
    "AutoAttackResNet18": (64, (3, 32, 32), 5),
    "cifar10-resnet20-robust": (128, (3, 32, 32), 7),
    "digits-robust": (128, (1, 8, 8), 21),
}
"""Each network's batch, image shape and number of rounds."""


def attack_gradient(classify: nn.Module, x: Tensor) -> None:
    """What an attack asks for at every iterate: logits, and the images' gradient of a loss."""
    x = x.clone().requires_grad_()
    logits = classify(x)
    torch.autograd.grad(logits.logsumexp(1).sum(), x)


@torch.no_grad()
def logits(classify: nn.Module, x: Tensor) -> None:
    classify(x)


def measure(name: str, device: torch.device) -> dict[str, Any]:
    """Return the median seconds of one network's works, and the ratios that matter."""
    batch, shape, rounds = SUBJECTS[name]
    torch.manual_seed(0)
    x = torch.rand(batch, *shape, device=device)
    plain = load_model(name).network.to(device).eval().requires_grad_(False)
    released = ReleasedDent(plain, STEPS)
    network = prepared(plain, device, x[:1])
    ours, low = Dent(network, DentSpec(steps=STEPS)), Dent(Bfloat16(network), DentSpec(steps=STEPS))
    with torch.no_grad():
        assert (ours(x) - released(x)).abs().mean() < 1e-2  # the same algorithm, on noise
        agreement = float((ours(x).argmax(1) == low(x).argmax(1)).float().mean())
    seconds = timed(
        {
            "static forward": lambda: logits(network, x),
            "static forward and gradient": lambda: attack_gradient(network, x),
            "dent": lambda: logits(ours, x),
            "dent, attack gradient": lambda: attack_gradient(ours, x),
            "dent bf16, attack gradient": lambda: attack_gradient(low, x),
            "released": lambda: logits(released, x),
            "released, attack gradient": lambda: attack_gradient(released, x),
        },
        rounds,
    )
    forward, gradient = seconds["static forward"], seconds["static forward and gradient"]
    floor = [STEPS * g + f for f, g in zip(forward, gradient, strict=True)]
    return {
        "batch": batch,
        "rounds": rounds,
        "seconds": {work: round(median(found), 5) for work, found in seconds.items()},
        "floor": round(median(floor), 5),
        "dent over floor": round(ratio(seconds["dent"], floor), 3),
        "released over dent": round(ratio(seconds["released"], seconds["dent"]), 3),
        "released over dent, attack gradient": round(
            ratio(seconds["released, attack gradient"], seconds["dent, attack gradient"]), 3
        ),
        "released over dent bf16, attack gradient": round(
            ratio(seconds["released, attack gradient"], seconds["dent bf16, attack gradient"]), 3
        ),
        "bf16 agreement": agreement,
    }
