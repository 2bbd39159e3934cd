"""The base attack: closed forms, AutoAttack's own APGD, and the promises of its interface."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from dentbench.attacks.apgd import LossAndGrad, apgd, random_start
from dentbench.attacks.base import ThreatModel, margins
from dentbench.attacks.losses import Loss, make_loss, ranked_targets
from dentbench.attacks.protocols.search import through
from dentbench.errors import SpecError
from tests.attacks.toys import SHAPE, labels_of, small_network, tiny_images

NORMS = ("Linf", "L2")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def best_linear(w: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """The most that w . (x' - x) can be for x' in the ball and the box, image by image."""
    w = w.double().flatten()
    room = torch.where(w > 0, 1 - x.double().flatten(1), -x.double().flatten(1))
    if threat.norm == "Linf":
        step = torch.minimum(torch.full_like(room, threat.eps), room.abs()) * w.sign()
        return step @ w
    low, high = torch.zeros(len(x)).double(), torch.full((len(x),), 1e6).double()
    for _ in range(200):  # the optimum is scale * w, cut off at the box, of length eps
        scale = (low + high) / 2
        step = (scale[:, None] * w.abs()).minimum(room.abs())
        short = step.norm(dim=1) < threat.eps
        low, high = torch.where(short, scale, low), torch.where(short, high, scale)
    return step @ w.abs()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", ["clean", "random"])
def test_the_optimum_of_a_linear_model_is_reached_and_never_beaten(norm: str, start: str) -> None:
    x = tiny_images(20)
    w = torch.randn(SHAPE, generator=generator())
    threat = ThreatModel(norm, 0.1 if norm == "Linf" else 1.0)

    def linear(points: Tensor) -> Tensor:
        score = (points * w).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    y = torch.ones(len(x), dtype=torch.long)
    seen: list[Tensor] = []
    points = x if start == "clean" else random_start(x, threat, generator(1))
    loss = make_loss("margin", y)
    best = apgd(
        through(linear), loss, points, x, threat, 100, lambda points, _: seen.append(points)
    )

    optimum = best_linear(w, x, threat)
    gained = ((best - x) * w).flatten(1).sum(1).double()
    assert (gained <= optimum + 1e-4).all()
    # In L2 the pull towards the clean image moves coordinates off the box, by as much as a step.
    assert (gained >= (0.9999 if norm == "Linf" else 0.985) * optimum).all()
    assert len(seen) == 101
    assert all(threat.contains(points, x).all() for points in seen)


@pytest.mark.parametrize("iterations", [7, 20, 60])
def test_in_linf_it_is_autoattacks(iterations: int) -> None:
    network, x = small_network(), tiny_images(30)
    y = labels_of(network, x)
    threat = ThreatModel("Linf", 0.03)
    start = random_start(x, threat, generator(2))
    theirs = APGDAttack(network, n_iter=iterations, norm="Linf", eps=0.03, seed=0, device="cpu")
    theirs.init_hyperparam(x)
    expected, _, loss, _ = theirs.attack_single_run(x, y, start.clone())

    actual = apgd(through(network), make_loss("ce", y), start, x, threat, iterations)

    torch.testing.assert_close(make_loss("ce", y)(network(actual)), loss, rtol=1e-4, atol=1e-5)
    assert (actual - expected).abs().max() <= 0.06 + 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_it_breaks_as_many_as_autoattacks(norm: str, loss: str) -> None:
    threat = ThreatModel(norm, 0.012 if norm == "Linf" else 0.08)
    ours = theirs = start = 0
    for seed in range(4):
        network, x = small_network(seed=seed), tiny_images(60, seed)
        y = labels_of(network, x)
        attack = APGDAttack(
            network, n_iter=15, norm=norm, eps=threat.eps, seed=seed, loss=loss, device="cpu"
        )
        attack.init_hyperparam(x)
        attack.attack_single_run(x, y)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            theirs += int(attack.attack_single_run(x, y)[1].sum())
        wrong = torch.zeros(len(x), dtype=torch.bool)

        def on_iterate(_: Tensor, logits: Tensor | None, y: Tensor = y, w: Tensor = wrong) -> None:
            assert logits is not None
            w |= margins(logits, y) > 0

        apgd(
            through(network, judges=True),
            make_loss(loss, y),
            random_start(x, threat, generator(seed)),
            x,
            threat,
            15,
            on_iterate,
        )
        ours += int((~wrong).sum())
        start += len(x)
    assert 0 < theirs < start
    assert ours <= theirs + 2


def test_dlr_is_autoattacks() -> None:
    logits = torch.randn(50, 7, generator=generator())
    y = torch.arange(50) % 7
    target = ranked_targets(logits, y, 1)
    plain = APGDAttack(lambda x: x, eps=1.0, device="cpu")
    targeted = APGDAttack_targeted(lambda x: x, eps=1.0, device="cpu")
    targeted.y_target = target
    torch.testing.assert_close(make_loss("dlr", y)(logits), plain.dlr_loss(logits, y))
    torch.testing.assert_close(
        make_loss("dlr", y, target)(logits), targeted.dlr_loss_targeted(logits, y)
    )


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["ce", "margin", "dlr"])
def test_losses_with_few_classes(classes: int, name: str) -> None:
    logits = torch.randn(9, classes, generator=generator())
    y = torch.zeros(9, dtype=torch.long)
    for targets in (None, ranked_targets(logits, y, 0)):
        assert torch.isfinite(make_loss(name, y, targets)(logits)).all()


def test_targets_are_ranked_by_the_logits_without_the_label() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    y = torch.tensor([0, 3])
    assert [ranked_targets(logits, y, rank).tolist() for rank in range(3)] == [
        [1, 2],
        [2, 1],
        [3, 0],
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_on_the_surface_and_seeded(norm: str) -> None:
    x = torch.full((5, 3, 6, 6), 0.5)
    threat = ThreatModel(norm, 0.2)
    start = random_start(x, threat, generator(3))
    torch.testing.assert_close(threat.distance(start, x), torch.full((5,), 0.2))
    assert torch.equal(start, random_start(x, threat, generator(3)))
    assert not torch.equal(start, random_start(x, threat, generator(4)))


def test_it_goes_where_the_gradient_fn_points_and_keeps_what_the_gradient_fn_likes() -> None:
    """Gradient and judge are apart: the callback's answers change nothing."""
    x = torch.full((3, 1, 5, 5), 0.5)
    threat = ThreatModel("Linf", 0.1)

    def gradient_fn(points: Tensor, loss: Loss) -> LossAndGrad:
        return LossAndGrad(points.flatten(1).sum(1), torch.ones_like(points))

    best = apgd(gradient_fn, make_loss("ce", torch.zeros(3)), x, x, threat, 5, lambda *_: True)
    torch.testing.assert_close(best, x + 0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_it_stays(norm: str) -> None:
    x = tiny_images(3)
    y = torch.zeros(3, dtype=torch.long)

    def flat(points: Tensor) -> Tensor:
        return (points.detach() * 4).round().flatten(1)[:, :4]

    best = apgd(through(flat), make_loss("dlr", y), x, x, ThreatModel(norm, 0.1), 5)
    assert torch.equal(best, x)


def test_l1_is_refused_by_name() -> None:
    x = tiny_images(2)
    y = torch.zeros(2, dtype=torch.long)
    with pytest.raises(SpecError, match=r"norm is 'L1'.*Linf and L2 only"):
        apgd(through(small_network()), make_loss("ce", y), x, x, ThreatModel("L1", 1.0), 5)
