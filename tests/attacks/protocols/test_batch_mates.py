"""Batch mates: the counts of other batches, image by image."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from dentbench.attacks.base import margins
from tests.attacks.contexts import COUPLED, context_of, run, spec_of
from tests.attacks.toys import labels_of, small_network, tiny_images


class Company(nn.Module):
    """The network, but for what it answers alone: of some images a wrong class, whatever it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        if len(x) > 1:
            return logits
        return -logits if float(x[0, 0, 0, 0]) > 0.5 else logits


def planted(count: int = 12) -> tuple[Company, Any]:
    """A context in which half of the images are at points that break them."""
    network = small_network()
    x = tiny_images(count)
    x[:, 0, 0, 0] = torch.linspace(0, 1, count)
    y = labels_of(network, x)
    spec = spec_of(count, COUPLED, eps=Fraction(1, 2), iterations=2, fractions=(0.25,))
    worst = x.clone()
    worst[::2] = torch.rand(x[::2].shape, generator=torch.Generator().manual_seed(3)) * 0.5
    worst[:, 0, 0, 0] = x[:, 0, 0, 0]
    worst = x + (worst - x).clamp(-0.5, 0.5)
    return Company(network), context_of(Company(network), network, x, y, spec, starts=(worst,))


def test_what_coupling_gets_wrong_unperturbed_is_no_attacks_doing() -> None:
    defense, context = planted()
    result = run("batch-mates", context)
    x, y, points = context.images, context.labels, result.points
    assert result.elsewhere is not None
    counts = {"natural": 0, "attacked": 0, "lost": 0, "broken": 0}
    for row in range(len(x)):
        natural = bool(defense(x[row][None]).argmax() == y[row])
        attacked = bool(defense(points[row][None]).argmax() == y[row])
        together = bool((margins(defense(points), y) <= 0)[row])
        counts["natural"] += natural
        counts["attacked"] += natural and attacked
        counts["lost"] += not natural  # every one is right in its declared batch
        counts["broken"] += together and natural and not attacked
        if together:  # wrong unperturbed is not broken
            assert bool(result.elsewhere[row]) == (attacked or not natural)
    assert result.details["compositions"]["alone"] == counts
    assert counts["lost"] > 2


def test_an_image_that_only_company_saves_is_broken() -> None:
    """Alone it is right unperturbed and wrong at its worst point."""

    class Saved(Company):
        def forward(self, x: Tensor) -> Tensor:
            moved = (x - clean(x)).abs().flatten(1).amax(1) > 1e-6
            logits: Tensor = self.network(clean(x))
            return torch.where(moved[:, None], -logits, logits) if len(x) == 1 else logits

    images = tiny_images(8)

    def clean(x: Tensor) -> Tensor:
        return images[torch.cdist(x.flatten(1), images.flatten(1)).argmin(1)]

    network = small_network()
    y = labels_of(network, images)
    spec = spec_of(8, COUPLED, eps=Fraction(1, 20), iterations=2, fractions=(0.25,))
    near = (images + 0.04).clamp(0, 1)
    context = context_of(Saved(network), network, images, y, spec, starts=(near,))
    result = run("batch-mates", context)
    assert result.elsewhere is not None and not result.elsewhere.any()
    assert result.details["compositions"]["alone"] == {
        "natural": 8,
        "attacked": 0,
        "lost": 0,
        "broken": 8,
    }
    for name in ("shuffled", "label-sorted", "among-natural"):
        assert result.details["compositions"][name]["attacked"] == 8
