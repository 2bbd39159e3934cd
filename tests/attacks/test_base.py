"""The threat model against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dentbench.attacks.base import ThreatModel, answered, judge, margins, or_wrong, scale_of
from dentbench.spec.evaluation import NORMS, AttackSpec, parse_eps
from tests.attacks.toys import tiny_images

EPS = {"Linf": 0.1, "L2": 0.5, "L1": 1.5}


def slow_distance(norm: str, point: Tensor, clean: Tensor) -> float:
    pixels = zip(point.flatten().tolist(), clean.flatten().tolist(), strict=True)
    delta = [abs(a - b) for a, b in pixels]
    if norm == "Linf":
        return max(delta)
    return sum(delta) if norm == "L1" else math.sqrt(sum(d * d for d in delta))


def wild(count: int = 40) -> tuple[Tensor, Tensor]:
    """Clean images and points around them, some in the ball, some far outside ball and box."""
    clean = tiny_images(count).double()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).double()
    reach = torch.logspace(-3, 1, count).double()[:, None, None, None]
    return clean, clean + noise * reach


@pytest.mark.parametrize(("norm", "expected"), [("Linf", 0.4), ("L2", 0.5), ("L1", 0.7)])
def test_distance_of_three_four_five(norm: str, expected: float) -> None:
    clean = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    point = clean + torch.tensor([[[[0.3, 0.0], [-0.4, 0.0]]]], dtype=torch.float64)
    assert ThreatModel(norm, 1).distance(point, clean).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_distance_equals_a_slow_loop(norm: str) -> None:
    clean, points = wild()
    expected = [slow_distance(norm, p, c) for p, c in zip(points, clean, strict=True)]
    assert ThreatModel(norm, 1).distance(points, clean).tolist() == pytest.approx(expected)


def test_linf_projection_clips_each_pixel() -> None:
    clean, points = wild()
    projected = ThreatModel("Linf", EPS["Linf"]).project(points, clean)
    for got, p, c in zip(*(t.flatten().tolist() for t in (projected, points, clean)), strict=True):
        assert got == pytest.approx(
            min(max(p, c - EPS["Linf"], 0.0), c + EPS["Linf"], 1.0), abs=1e-12
        )


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_l2_and_l1_projection_pulls_towards_the_clean_image(norm: str) -> None:
    clean, points = wild()
    threat = ThreatModel(norm, EPS[norm])
    projected = threat.project(points, clean)
    for got, point, center in zip(projected, points.clamp(0, 1), clean, strict=True):
        distance = slow_distance(norm, point, center)
        expected = center + (point - center) * min(1.0, EPS[norm] / distance)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        assert slow_distance(norm, got, center) == pytest.approx(min(distance, EPS[norm]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_what_is_projected_is_contained_and_stays(norm: str, dtype: torch.dtype) -> None:
    clean, points = (t.to(dtype) for t in wild(200))
    threat = ThreatModel(norm, EPS[norm])
    once = threat.project(points, clean)
    assert threat.contains(once, clean).all()
    assert (once >= 0).all() and (once <= 1).all()
    torch.testing.assert_close(threat.project(once, clean), once, rtol=0, atol=1e-6)
    inside = (threat.distance(points, clean) <= threat.eps) & threat.contains(points, clean)
    assert inside.any() and not inside.all()
    assert torch.equal(once[inside], points[inside])


@pytest.mark.parametrize("norm", NORMS)
def test_contains_tells_the_ball(norm: str) -> None:
    clean = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
    step = {"Linf": 0.2, "L2": 0.1, "L1": 0.05}[norm]  # of 4 pixels: 0.2 in every norm
    points = clean + step * torch.tensor([0.99, 1.0, 1.01]).double()[:, None, None, None]
    assert ThreatModel(norm, 0.2).contains(points, clean).tolist() == [True, True, False]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("edge", "outside"), [(0.0, -1e-6), (1.0, 1 + 1e-6)])
def test_contains_tells_the_box(norm: str, edge: float, outside: float) -> None:
    clean = torch.full((2, 1, 2, 2), edge, dtype=torch.float64)
    points = clean.clone()
    points[1, 0, 0, 0] = outside
    assert ThreatModel(norm, 0.5).contains(points, clean).tolist() == [True, False]


@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_leaves_the_clean_image_alone(norm: str) -> None:
    clean, points = wild()
    points[0] = clean[0]
    threat = ThreatModel(norm, 0.0)
    assert torch.equal(threat.project(points, clean), clean)
    assert threat.contains(points, clean).tolist() == [True] + [False] * (len(clean) - 1)


def test_a_spec_names_its_threat_model() -> None:
    spec = AttackSpec(norm="L2", eps=parse_eps("128/255"))
    assert ThreatModel.of(spec) == ThreatModel("L2", 128 / 255)


def test_margins_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [4.0, 4.0, -9.0]])
    assert margins(logits, torch.tensor([1, 2, 0])).tolist() == [-1.0, 1.0, 0.0]


def test_the_scale_of_logits_is_their_range_but_for_masked_classes() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, -5.0], [4.0, 0.0, 0.0, 1.0], [2.0, 2.0, 0.0, 0.0]])
    assert scale_of(logits) == 9.0
    masked = torch.cat([logits, torch.full((3, 1), -1e9)], 1)
    assert scale_of(masked) == 30.0  # leads of 1 and 3, and a tie
    assert scale_of(torch.zeros(2, 3)) == 1e-12
    assert scale_of(torch.tensor([[2.0, 2.0, 1.0]])) == 1.0


def test_judging_compares_the_highest_logit_with_the_label() -> None:
    logits = torch.tensor([[1.0, 3.0], [3.0, 1.0], [0.0, 1.0]])
    assert judge(lambda _: logits, logits, torch.tensor([1, 1, 1])).tolist() == [True, False, True]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_logits_that_are_not_finite_are_wrong_whatever_the_label(bad: float, label: int) -> None:
    logits = torch.tensor([[1.0, 2.0, 1.0], [bad, 0.0, 0.0], [0.0, bad, 0.0], [0.0, 0.0, bad]])
    labels = torch.tensor([1, label, label, label])
    assert judge(lambda _: logits, logits, labels).tolist() == [True, False, False, False]
    assert answered(logits).tolist() == [True, False, False, False]
    assert bool((margins(or_wrong(logits, labels), labels)[1:] > 0).all())
    assert or_wrong(logits[:1], labels[:1]) is not None


def test_the_gradient_of_other_images_does_not_suffer_from_nan() -> None:
    x = torch.tensor([[0.25], [0.0]], requires_grad=True)
    logits = torch.cat([x / x, x.sqrt()], 1)  # 0 / 0 in the second row
    rows = or_wrong(logits, torch.tensor([0, 0]))
    (gradient,) = torch.autograd.grad(margins(rows, torch.tensor([0, 0])).sum(), x)
    assert gradient[0].item() == 1.0
    assert rows[1].tolist() == [0.0, 1.0]
