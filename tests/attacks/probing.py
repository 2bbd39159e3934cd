"""Probes of planted defenses, as the runner makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.checks import Check
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.suite import probe
from dentbench.attacks.rng import SeededDefense
from tests.attacks.toys import labels_of, small_network, tiny_images

COUNT = 20


def probe_at(
    answer: Classifier,
    threat: ThreatModel,
    x: Tensor,
    *,
    labels: Tensor | None = None,
    separable: bool = True,
) -> Probe:
    """The probe of one instance about images, whose labels by default are the small network's."""
    return Probe(
        make=lambda: answer,
        copies=True,
        images=x,
        labels=labels_of(small_network(), x) if labels is None else labels,
        numbers=range(len(x)),
        threat=threat,
        separable=separable,
        steps=None,
        seed=1,
    )


def probed(
    defense: Callable[[], Any],
    *,
    separable: bool = True,
    norm: str = "Linf",
    copies: bool = True,
    iterations: int = 20,
    declared: bool = False,
) -> dict[str, Check]:
    """Probe what ``defense`` makes, as the runner does."""
    x = tiny_images(COUNT)

    def make(after: SeededDefense | None = None) -> Classifier:
        fresh = SeededDefense(defense(), 3, torch.device("cpu"))
        if after is not None:
            fresh.draw_as(after)
        return fresh

    what = Probe(
        make=make,
        copies=copies,
        images=x,
        labels=labels_of(small_network(), x),
        numbers=range(len(x)),
        threat=ThreatModel(norm, 0.05),
        separable=separable,
        random=declared,
        steps=None,
        seed=1,
        iterations=iterations,
    )
    return {check.name: check for check in probe(what)}


def failing(result: dict[str, Check]) -> set[str]:
    return {name for name, check in result.items() if check.passed is False}


def changed(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Classifier]:
    """Return what makes a defense: the network's logits, changed by them and the images."""
    network = small_network()
    return lambda: lambda x: change(network(x), x)
