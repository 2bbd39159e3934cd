"""The protocols that attack a defense directly, on toys whose truth is known."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from dentbench.adapt.dent import Dent
from dentbench.attacks.base import margins
from dentbench.attacks.budget import larger_steps
from dentbench.attacks.chunked import Chunked
from dentbench.attacks.counting import CallCounter
from dentbench.attacks.losses import make_loss
from dentbench.attacks.protocols.gradient import trajectory_gradient_fn, unrolled_defense
from dentbench.attacks.protocols.search import Search, through
from dentbench.defenses.naming import built_in
from dentbench.defenses.stand_ins import smooth_sign
from dentbench.errors import SpecError
from dentbench.spec.evaluation import DentSpec
from tests.attacks.contexts import (
    COUPLED,
    SEPARABLE,
    Linear,
    Quantized,
    Stale,
    context_of,
    robust_under,
    run,
    spec_of,
)
from tests.attacks.toys import labels_of, small_network, tiny_images


def linear_task(
    defense: Linear,
    eps: Fraction,
    count: int = 24,
    defended: DentSpec = SEPARABLE,
    with_steps: Any = None,
    **more: Any,
) -> Any:
    x = 0.3 + 0.4 * tiny_images(count)  # far from the box, so that the optimum is plain
    y = labels_of(Linear(), x)
    spec = spec_of(count, defended, eps=eps, cascade=False, iterations=20, **more)
    return context_of(defense, Linear(), x, y, spec, with_steps=with_steps)


def out_of_reach(context: Any) -> int:
    """How many images no perturbation in the Linf ball breaks: the closed form."""
    score = margins(Linear()(context.images), context.labels).abs()
    return int((score > float(context.spec.attack.eps) * Linear().weight.abs().sum()).sum())


@pytest.mark.parametrize("stage", ["surrogate", "warm", "bpda", "scores", "decision", "unrolled"])
def test_a_linear_model_holds_exactly_as_far_as_its_closed_form(stage: str) -> None:
    """An honest defense: adapting changes nothing."""

    class Honest(Linear):
        def adapt(self, x: Tensor) -> Tensor:
            return x.new_zeros(())

        def unroll(self, x: Tensor) -> Tensor:
            return self.adapt(x)

        def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
            return Linear.forward(self, x) + adaptation

    context = linear_task(Honest(), Fraction(3, 100), queries=200)
    expected = out_of_reach(context)
    assert 0 < expected < 24
    robust = robust_under(stage, context)
    assert robust >= expected  # never beaten
    assert robust <= (20 if stage == "scores" else expected)  # Square is slow on pure noise


def test_a_defense_that_moves_after_the_attacker() -> None:
    context = linear_task(Stale(), Fraction(3, 100))
    expected = out_of_reach(context)
    fooled = {stage: robust_under(stage, context) for stage in ("warm", "unrolled", "surrogate")}
    assert fooled["unrolled"] == fooled["surrogate"] == expected
    assert fooled["warm"] > expected  # the published gradient leads away


class Stairs(Stale):
    """As :class:`Stale`, but what it adapts to comes in small steps, each made by a sign.

    The steps have no gradient; what they stand for has the network's, twice.
    """

    step = 0.05

    def unroll(self, x: Tensor) -> Tensor:
        score = Linear.forward(self, x)
        edges = torch.arange(-20, 20, self.step).to(x)
        signs = smooth_sign((score[:, :1] - edges).flatten(1))
        return torch.cat([self.step / 2 * signs.sum(1, keepdim=True), score[:, 1:]], dim=1)


def test_a_smooth_sign_shows_the_way_through_steps() -> None:
    context = linear_task(Stairs(), Fraction(3, 100))
    expected = out_of_reach(context)
    assert abs(robust_under("unrolled", context) - expected) <= 1  # its stairs are near the slope
    assert robust_under("warm", context) > expected + 2


def test_masked_gradients_do_not_help() -> None:
    network = small_network()
    x = tiny_images(24)
    y = labels_of(Quantized(network), x)
    spec = spec_of(24, eps=Fraction(1, 20), cascade=False, iterations=10, queries=100)
    context = context_of(Quantized(network), network, x, y, spec)
    robust = {
        stage: robust_under(stage, context) for stage in ("warm", "bpda", "scores", "decision")
    }
    bare = robust_under("warm", context_of(network, network, x, y, spec))
    assert robust["bpda"] <= bare + 2  # as if nothing were masked
    assert robust["scores"] < robust["warm"]
    assert robust["decision"] < robust["scores"]  # a search for rays is the better one in so few
    assert robust["bpda"] < robust["warm"]


def test_bpda_differs_from_the_surrogate_where_the_images_are_prepared() -> None:
    """It takes the gradient where the network looks: at the images that the defense shows it."""
    network = small_network()

    class Shifted(torch.nn.Module):
        def adapt(self, x: Tensor) -> float:
            return 0.25

        def preprocess(self, x: Tensor, adaptation: float) -> Tensor:
            return 1 - x * (1 - adaptation)

        def predict(self, x: Tensor, adaptation: float) -> Tensor:
            logits: Tensor = network(self.preprocess(x, adaptation))
            return logits

        def forward(self, x: Tensor) -> Tensor:
            return self.predict(x, self.adapt(x))

    x = tiny_images(6)
    defense = Shifted()
    seen: list[Tensor] = []
    handle = network[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    context = context_of(
        defense, network, x, labels_of(defense, x), spec_of(6, cascade=False, iterations=1)
    )
    seen.clear()
    run("bpda", context)
    handle.remove()
    # Every call of the network, the backward one included, is at prepared images.
    assert all((image >= 0.25 - 1e-5).all() for image in seen)


def test_the_unrolled_gradient_is_that_of_finite_differences() -> None:
    network = small_network().double()
    network[2] = torch.nn.Softplus()  # type: ignore[operator]
    x = tiny_images(2).double()
    spec = spec_of(2, DentSpec(steps=2, lr=0.05), cascade=False)
    dent = Dent(network, spec.defense)
    y = labels_of(network, x)
    context = context_of(dent, network, x, y, spec)
    gradient_fn = through(unrolled_defense(context.defense, context.spec), judges=True)
    loss = make_loss("margin", y)
    current = gradient_fn(x, loss)
    torch.testing.assert_close(current.logits, dent(x))
    step = 1e-6
    for position in [(0, 0, 1, 2), (0, 2, 4, 0), (1, 1, 3, 3)]:
        moved = [x.clone(), x.clone()]
        moved[0][position] += step
        moved[1][position] -= step
        high, low = (margins(dent(points), y).sum() for points in moved)
        expected = (high - low) / (2 * step)
        torch.testing.assert_close(current.gradient[position], expected, rtol=1e-4, atol=1e-7)


def test_the_trajectory_is_the_mean_over_the_defenses_with_fewer_steps() -> None:
    network = small_network().double()
    x = tiny_images(3).double()
    defense = DentSpec(loss="entropy", steps=3, lr=0.05)
    y = labels_of(network, x)
    context = context_of(Dent(network, defense), network, x, y, spec_of(3, defense))
    current = trajectory_gradient_fn(Search(context, "trajectory"))(x, make_loss("ce", y))
    each = [through(Dent(network, defense.with_steps(steps))) for steps in range(4)]
    results = [gradient_fn(x, make_loss("ce", y)) for gradient_fn in each]
    torch.testing.assert_close(
        current.loss, torch.stack([result.loss for result in results]).mean(0)
    )
    gradients = torch.stack([result.gradient for result in results])
    torch.testing.assert_close(current.gradient, gradients.mean(0))
    torch.testing.assert_close(current.logits, Dent(network, defense)(x))


def test_a_trajectory_shown_in_parts_is_the_same() -> None:
    network, x = small_network(), tiny_images(5)
    dent = Dent(network, SEPARABLE, batch_size=5)
    parts = Chunked(dent, 2, CallCounter())
    pairs = zip(dent.trajectory(x), parts.trajectory(x), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(parts.predict(x, theirs), dent.predict(x, ours))


class Drifting(Linear):
    """It moves after the attacker as :class:`Stale` does, but in steps.

    Its updates bring ``steps * lr`` times the network's answer: all of it, in four steps.
    """

    def __init__(self, steps: int = 4, lr: float = 0.25) -> None:
        super().__init__()
        self.steps, self.lr = steps, lr

    def unroll(self, x: Tensor) -> Tensor:
        moved = torch.zeros(len(x), 2)
        for _ in range(self.steps):
            moved = moved + self.lr * Linear.forward(self, x)
        return moved

    def trajectory(self, x: Tensor) -> list[Tensor]:
        steps = range(self.steps + 1)
        return [Drifting(count, self.lr).unroll(x).detach() for count in steps]

    def adapt(self, x: Tensor) -> Tensor:
        return self.trajectory(x)[-1]

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        return 2 * adaptation - Linear.forward(self, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x, self.adapt(x))


def drifting(steps: int, *, larger: bool = False) -> Drifting:
    return Drifting(steps, 1 / steps if larger else 0.25)


def test_a_surrogate_process_goes_as_far_in_fewer_steps() -> None:
    """One step of a quarter's length would lead away; one of full length leads to the optimum."""
    defense = DentSpec(steps=4)
    context = linear_task(Drifting(), Fraction(3, 100), defended=defense, with_steps=drifting)
    expected = out_of_reach(context)
    assert robust_under("surrogate-process", context) == expected
    assert robust_under("few-steps", context) > expected
    # The published gradients of all of its networks point the same, wrong way.
    assert robust_under("trajectory", context) > expected


def test_larger_steps_go_as_far() -> None:
    dent = DentSpec(steps=6, lr=0.01, gamma_lr=0.02, blur="dynamic", sigma_lr=0.1)
    coarse = dent.with_larger_steps(2)
    assert coarse.steps == 2
    rates = coarse.lr, coarse.gamma_lr, coarse.sigma_lr
    assert rates == pytest.approx((0.03, 0.06, 0.3))
    assert coarse.beta_lr == dent.beta_lr and coarse.loss == dent.loss
    blur = DentSpec(steps=6, delta="none", blur="dynamic").with_larger_steps(3)
    assert blur.sigma_lr == pytest.approx(0.2)
    hedge = built_in("hedge").with_larger_steps(5)
    assert dict(hedge.settings) == {
        "steps": 5,
        "eps": Fraction(8, 255),
        "step_size": Fraction(16, 255),
    }
    assert [larger_steps(spec_of(1, DentSpec(steps=n))) for n in (1, 2, 6, 30)] == [1, 1, 2, 3]


def test_a_truncated_gradient_is_refused_where_the_defense_has_none() -> None:
    context = linear_task(Stale(), Fraction(1, 100), last=1)
    with pytest.raises(SpecError, match="unroll takes no last"):
        run("unrolled", context)


def test_eot_of_a_separable_random_defense_averages_its_answers() -> None:
    network = small_network()

    class Noisy(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network(x + 0.1 * torch.randn(x.shape))
            return logits

    x = tiny_images(12)
    y = labels_of(network, x)
    spec = spec_of(12, eps=Fraction(1, 10), cascade=False, draws=3)
    context = context_of(Noisy(), network, x, y, spec)
    assert robust_under("eot", context) <= 6


@pytest.mark.parametrize("defense", [SEPARABLE, COUPLED])
def test_the_search_judges_by_the_defense_and_keeps_what_it_saw(defense: DentSpec) -> None:
    """Whatever gives the gradient, a point counts only if the defense is wrong there."""
    network = small_network()
    x = tiny_images(8)
    y = labels_of(network, x)
    calls = []

    def stubborn(points: Tensor) -> Tensor:
        calls.append(len(points))
        return torch.nn.functional.one_hot(y, 5).float()[: len(points)]

    spec = spec_of(8, defense, eps=Fraction(1, 2), cascade=False)
    context = context_of(stubborn, network, x, y, spec)
    result = run("surrogate", context)
    assert result.robust.all()
    assert result.broken_by == ("",) * 8
    assert set(calls) == {8}


def test_settled_images_stay_where_they_were_broken() -> None:
    network = small_network()
    x = tiny_images(6)
    y = labels_of(network, x)
    settled = x + 0.01
    for defense in (SEPARABLE, COUPLED):
        shown: list[Tensor] = []

        def defended(points: Tensor, shown: list[Tensor] = shown) -> Tensor:
            shown.append(points.detach())
            logits: Tensor = network(points)
            return logits

        context = context_of(
            defended,
            network,
            x,
            y,
            spec_of(6, defense),
            starts=(settled,),
            settled_by=("transfer", "", "", "surrogate", "", ""),
            settled_points=settled,
        )
        shown.clear()
        result = run("warm", context)
        assert result.broken_by[0] == "transfer"
        assert result.broken_by[3] == "surrogate"
        assert not result.robust[[0, 3]].any()
        assert torch.equal(result.points[[0, 3]], settled[[0, 3]])
        if defense is COUPLED:  # they are mates at their adversarial points, in every query
            assert all(torch.equal(batch[[0, 3]], settled[[0, 3]]) for batch in shown)
        else:
            assert all(len(batch) <= 4 for batch in shown)


def test_a_coupled_search_keeps_the_batch_in_which_most_are_wrong() -> None:
    network = small_network()
    x = 0.9 * tiny_images(4)
    y = labels_of(network, x)
    context = context_of(network, network, x, y, spec_of(4, COUPLED))
    search = Search(context, "warm")
    right, wrong = torch.eye(5)[y], torch.eye(5)[(y + 1) % 5]
    batches = [x + 0.001 * k for k in range(1, 4)]
    for points, broken in zip(batches, ([0], [1, 2], [3]), strict=True):
        logits = right.clone()
        logits[broken] = wrong[broken]
        search.see(points, logits)
    result = search.result()
    # All best points together break nobody, as the real network judges them: the second stays.
    assert torch.equal(result.points, batches[1])
    # The other two are its witnesses: in each an image is wrong that is right in the second.
    assert [batch.tolist() for batch in result.witnesses] == [
        batches[0].tolist(),
        batches[2].tolist(),
    ]
    assert result.robust.tolist() == [False] * 4


def test_a_coupled_search_keeps_the_few_batches_that_break_most_together() -> None:
    network = small_network()
    x = 0.9 * tiny_images(16)
    y = labels_of(network, x)
    context = context_of(network, network, x, y, spec_of(16, COUPLED, batch=16))
    search = Search(context, "warm")
    right, wrong = torch.eye(5)[y], torch.eye(5)[(y + 1) % 5]
    groups = [[0, 1, 2, 3], *([k] for k in range(4, 12)), [0, 1], [12, 13], []]
    for number, broken in enumerate(groups):
        logits = right.clone()
        logits[broken] = wrong[broken]
        search.see(x + 0.001 * number, logits)
    result = search.result()
    assert torch.equal(result.points, x)
    # Three are kept: that of 12 and 13 for two images, and two of one image each.
    assert len(result.witnesses) == 3
    assert sum(result.robust.tolist()) == 16 - 4 - 2 - 2
    assert not result.robust[[0, 1, 2, 3, 12, 13]].any()
