"""Tiny images, networks and a call of the attack runner, shared by the tests of the attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dentbench.attacks.autoattack import AttackResult, run_attack
from dentbench.attacks.base import Classifier, ThreatModel, judge
from dentbench.attacks.views import BatchView
from dentbench.spec.evaluation import AttackSpec

SHAPE = (3, 5, 5)
"""Square attack in L2 and L1 needs images of 5 pixels or more."""


def tiny_images(count: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def small_network(classes: int = 5, seed: int = 0, *, coupled: bool = False) -> nn.Module:
    """Convolution, batch normalization and a linear layer, with every image's class its own.

    ``coupled``: the normalization uses the statistics of the batch, so images are not independent.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(SHAPE[0], 6, 3, padding=1),
            nn.BatchNorm2d(6, track_running_stats=not coupled),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * SHAPE[1] * SHAPE[2], classes),
        )
        if not coupled:
            network.train()(torch.rand(64, *SHAPE))
    return network.eval()


class NearlyConstant(nn.Module):
    """Answers class 0 whatever the image is, with logits that depend on it ever so slightly."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner = small_network(classes)
        self.register_buffer("offset", 5.0 * torch.eye(classes)[0])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 0.01 * self.inner(x) + self.offset
        return logits


@torch.no_grad()
def labels_of(network: Classifier, x: Tensor) -> Tensor:
    """The labels that the network gives, so that it is right everywhere."""
    return network(x).argmax(1)


def attacked(
    defense: Classifier,
    x: Tensor,
    y: Tensor,
    spec: AttackSpec,
    *,
    classes: int = 5,
    whole: bool = False,
    natural: Tensor | None = None,
    chunk: int | None = None,
    seed_of: Callable[[str, int], int] = lambda *_: 11,
    prepare: Callable[[BatchView], Any] = lambda _: None,
) -> tuple[AttackResult, BatchView]:
    """Run an attack on one batch; ``prepare`` gets the view before the attack begins."""
    view = BatchView(defense, x, y, ThreatModel.of(spec), whole=whole)
    prepare(view)
    right = judge(defense, x, y) if natural is None else natural
    result = run_attack(
        view, spec, right, classes, seed_of=seed_of, chunk=len(x) if chunk is None else chunk
    )
    return result, view
