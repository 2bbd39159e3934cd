"""The check "separable" beside rounding: differences that it explains, and others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks.checks import SAME
from dentbench.attacks.probes.rounding import OtherRounding, changes_by_rounding
from dentbench.defenses.jpeg import Jpeg
from tests.attacks.probing import probed
from tests.attacks.toys import small_network, tiny_images

pytestmark = pytest.mark.whole_checks


class OtherOrder(Jpeg):
    """JPEG whose sums come out a little otherwise in a batch of another size, as on a GPU."""

    def _quantized(self, planes: Tensor) -> Tensor:
        return super()._quantized(planes * (1 + 3e-7 * (len(planes) % 3 - 1)))


class Levels(nn.Module):
    """The network's logits, but for the steps of a mean's levels, every other image on an edge.

    ``error``: of the mean, by the number of images; ``mates``: the share of the batch's mean.
    """

    def __init__(self, error: Callable[[int], float], mates: float = 0.0) -> None:
        super().__init__()
        self.network = small_network()
        self.error = error
        self.mates = mates

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        edges = torch.where(x[:, 0, 0, 0] > 0.5, 0.5, 0.7)[:, None]
        level = edges.expand(-1, 64).mean(1)  # a sum, of some on the edge between two levels
        level = (level + self.error(len(x))).round()
        return logits + 0.05 * level[:, None] * logits.detach() + self.mates * logits.mean(0)


def test_jpeg_in_another_order_is_separable() -> None:
    network = small_network()
    x = tiny_images(20)
    with torch.no_grad():
        defense = OtherOrder(network, quality=100)
        first, other = defense(x), defense(x[:10])
    assert float((first[:10] - other).abs().max()) > SAME * float(first.max() - first.min())
    check = probed(lambda: defense)["separable"]
    assert check.passed and "but by rounding" in check.sentence


def test_levels_whose_edge_is_met_are_separable() -> None:
    check = probed(lambda: Levels(lambda count: 1e-7 * (count % 2)))["separable"]
    assert check.passed and "sums are rounded otherwise" in check.sentence


@pytest.mark.parametrize(
    "defense",
    [
        Levels(lambda count: 0.0, mates=0.3),
        Levels(lambda count: 1e-7 * (count % 2), mates=0.3),
        Levels(lambda count: 1e-7 * (count % 2), mates=0.01),
    ],
    ids=["mates", "mates beside levels", "few mates beside levels"],
)
def test_batch_mates_are_seen_beside_rounding(defense: nn.Module) -> None:
    check = probed(lambda: defense)["separable"]
    assert check.passed is False and "declared separable" in check.sentence


def test_a_sum_is_off_by_a_few_roundings() -> None:
    x = torch.rand(8, 1000, generator=torch.Generator().manual_seed(0))
    with OtherRounding(0):
        total = x.sum(1)
    apart = (total - x.sum(1)).abs().max()
    assert 0 < apart < 1e-3
    with OtherRounding(0):
        assert torch.equal(x.sum(1), total)  # of one seed
        assert torch.equal(2 * x, x + x)  # nothing else is changed


def test_one_that_cannot_be_asked_so_says_nothing() -> None:
    def refuse(x: Tensor) -> Tensor:
        raise RuntimeError("not here")

    x = tiny_images(2)
    assert changes_by_rounding(refuse, x, small_network()(x)) == []
