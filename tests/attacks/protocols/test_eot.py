"""How the draws of a random defense are joined, on mixtures of linear models."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks.base import ThreatModel, judge
from dentbench.attacks.protocols.eot import SHARPNESS, STEPS, selective
from dentbench.errors import SpecError
from dentbench.spec.evaluation import ProtocolSpec
from dentbench.study.parsing import parse_protocol_settings
from tests.attacks.contexts import context_of, run, spec_of
from tests.attacks.toys import tiny_images


class Half(nn.Module):
    """Two classes: the score of class 0 is ``offset`` plus a weighted mean of the pixels."""

    def __init__(self, slope: float, offset: float) -> None:
        super().__init__()
        self.slope, self.offset = slope, offset

    def forward(self, x: Tensor) -> Tensor:
        score = self.offset + self.slope * (x - 0.5).flatten(1).mean(1)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


HOPELESS = Half(slope=10.0, offset=5.0)
WEAK = Half(slope=-2.0, offset=0.12)
"""Within 0.1 the first cannot be broken (its score falls by 1 at most); the second can be, upwards,
where the first one's gradient, five times as long, points down."""


class Mixture(nn.Module):
    """Asks one of the two at random, every time anew."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (HOPELESS if torch.rand(()) < 0.5 else WEAK)(x)
        return logits


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_draws_that_cannot_be_broken_do_not_mislead(norm: str) -> None:
    x = 0.45 + 0.1 * tiny_images(12)
    y = torch.zeros(12, dtype=torch.long)
    eps = {"Linf": Fraction(1, 10), "L2": Fraction(86, 100)}[norm]  # sqrt(75) times as much
    broken = {}
    for kind in ("weighted", "mean"):
        spec = spec_of(12, norm=norm, eps=eps, iterations=20, draws=6, eot=kind)
        torch.manual_seed(0)
        points = run("eot", context_of(Mixture(), WEAK, x, y, spec)).points
        assert judge(HOPELESS, points, y).all()
        broken[kind] = int((~judge(WEAK, points, y)).sum())
    assert judge(WEAK, x, y).sum() >= 10
    assert broken["weighted"] == 12
    assert broken["mean"] <= 2, "the longer gradient of the hopeless one pulls it along"


def test_the_weights_are_the_written_out_fixed_point() -> None:
    generator = torch.Generator().manual_seed(1)
    losses = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    gradients = torch.randn(5, 3, 1, 2, 2, generator=generator, dtype=torch.float64)
    threat = ThreatModel("Linf", 0.3)
    actual = selective(losses, gradients, threat)
    for image in range(3):
        loss, gradient = losses[:, image], gradients[:, image]
        helped = [
            sum(
                v if v > 0 else v.exp() - 1
                for v in (loss[j] + 0.3 * (item.sign() * gradient[j]).sum() for j in range(5))
            )
            for item in gradient
        ]
        r = gradient[max(range(5), key=lambda i: float(helped[i]))]
        for _ in range(STEPS):
            w = [
                torch.sigmoid(
                    SHARPNESS / loss.abs().mean() * (loss[j] + 0.3 * (r.sign() * gradient[j]).sum())
                )
                for j in range(5)
            ]
            r = sum(w[j] * gradient[j] for j in range(5)) / sum(w)
        torch.testing.assert_close(actual[image], r)


def test_one_draw_is_itself_and_equal_draws_too() -> None:
    single = torch.randn(1, 4, 1, 2, 2)
    threat = ThreatModel("L2", 1.0)
    torch.testing.assert_close(selective(torch.zeros(1, 4), single, threat), single[0])
    three = single.expand(3, -1, -1, -1, -1)
    torch.testing.assert_close(selective(torch.zeros(3, 4), three, threat), single[0])
    zero = torch.zeros_like(three)
    assert torch.equal(selective(torch.ones(3, 4), zero, threat), zero[0])


def test_the_setting_is_given_by_name() -> None:
    assert ProtocolSpec().eot == "weighted"
    assert parse_protocol_settings(["eot=mean"]).eot == "mean"
    with pytest.raises(SpecError, match="eot is 'median'; allowed: weighted, mean"):
        parse_protocol_settings(["eot=median"])
