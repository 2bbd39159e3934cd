"""Each built-in defense against a slow transcription of its source, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from dentbench.attacks.cost import stage_passes
from dentbench.defenses.build import build
from dentbench.defenses.catalogue import DEFENSES
from dentbench.defenses.naming import built_in
from dentbench.defenses.stand_ins import smooth_sign
from dentbench.errors import SpecError
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from tests.adapt.networks import smooth_network
from tests.attacks.contexts import spec_of
from tests.attacks.toys import labels_of, small_network, tiny_images
from tests.reference import soft_sign, tiny_network

BUILT_IN = [name for name in DEFENSES if name not in ("dent", "none")]


@pytest.fixture
def network() -> nn.Module:
    return tiny_network().double().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def _train_mode(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorm layers use the statistics of the batch, as torch does in training."""
    network = copy.deepcopy(network).train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.requires_grad_(True)
    return network


def test_norm_is_batchnorm_in_train_mode(network: nn.Module, x: Tensor) -> None:
    actual = build(built_in("norm"), network, x)(x)
    torch.testing.assert_close(actual, _train_mode(network)(x).detach())


def test_norm_with_a_share_mixes_the_moments(network: nn.Module, x: Tensor) -> None:
    slow = copy.deepcopy(network)
    for layer in slow.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = partial(mixed, layer=layer, share=0.3)  # type: ignore[method-assign]
    actual = build(built_in("norm", {"share": 0.3}), network, x)(x)
    torch.testing.assert_close(actual, slow(x).detach())


def mixed(x: Tensor, layer: nn.BatchNorm2d, share: float) -> Tensor:
    """Normalization by the running moments and the batch's own, channel by channel."""
    assert layer.running_mean is not None and layer.running_var is not None
    channels = []
    for number in range(x.shape[1]):
        own = x[:, number].flatten()
        spread = ((own - own.mean()) ** 2).mean()
        mean = share * own.mean() + (1 - share) * layer.running_mean[number]
        variance = share * spread + (1 - share) * layer.running_var[number]
        normal = (x[:, number] - mean) / (variance + layer.eps) ** 0.5
        channels.append(normal * layer.weight[number] + layer.bias[number])
    return torch.stack(channels, 1)


@pytest.mark.parametrize("steps", [1, 3])
def test_tent_is_adam_on_the_entropy(network: nn.Module, x: Tensor, steps: int) -> None:
    slow = _train_mode(network)
    optimizer = torch.optim.Adam([p for p in slow.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        logits = slow(x)
        optimizer.zero_grad()
        torch.distributions.Categorical(logits=logits).entropy().mean().backward()
        optimizer.step()
    actual = build(built_in("tent", {"steps": steps, "lr": 0.01}), network, x)(x)
    torch.testing.assert_close(actual, slow(x).detach())


def test_online_tent_goes_on_from_batch_to_batch(network: nn.Module, x: Tensor) -> None:
    slow = _train_mode(network)
    optimizer = torch.optim.Adam([p for p in slow.parameters() if p.requires_grad], lr=0.01)
    now = build(built_in("tent-online", {"lr": 0.01}), network, x)
    for batch in (x, 1 - x, x**2):
        logits = slow(batch)
        torch.testing.assert_close(now(batch), logits.detach())
        torch.testing.assert_close(now(batch), logits.detach())  # being asked moves nothing
        optimizer.zero_grad()
        torch.distributions.Categorical(logits=logits).entropy().mean().backward()
        optimizer.step()
        now = now.after(batch)


def test_anti_adversary(network: nn.Module, x: Tensor) -> None:
    added = torch.zeros_like(x)
    label = network(x).argmax(1)
    for _ in range(3):
        leaf = added.clone().requires_grad_()
        F.cross_entropy(network(x + leaf), label).backward()
        assert leaf.grad is not None
        added = added - 0.05 * leaf.grad.sign()
    defense = build(built_in("anti-adversary", {"steps": 3, "alpha": 0.05}), network, x)
    torch.testing.assert_close(defense(x), network(x + added))
    one_by_one = torch.cat([defense(image[None]) for image in x])
    torch.testing.assert_close(defense(x), one_by_one)


def test_hedge(network: nn.Module, x: Tensor) -> None:
    eps, step = 0.1, 0.04
    torch.manual_seed(3)
    points = x + (2 * torch.rand_like(x) - 1) * eps
    for _ in range(3):
        leaf = points.clone().requires_grad_()
        logits = network(leaf)
        torch.stack(
            [F.cross_entropy(logits, torch.full((5,), c)) for c in range(10)]
        ).sum().backward()
        assert leaf.grad is not None
        moved = points + step * leaf.grad.sign()
        points = torch.minimum(torch.maximum(moved, x - eps), x + eps).clamp(0, 1)
    settings = {"steps": 3, "eps": "0.1", "step_size": Fraction(1, 25)}
    defense = build(built_in("hedge", settings), network, x)
    torch.manual_seed(3)
    torch.testing.assert_close(defense(x), network(points))


@pytest.mark.parametrize("name", [item for item in BUILT_IN if item != "diffpure"])
def test_the_model_is_untouched_and_the_gradient_is_there(
    name: str, network: nn.Module, x: Tensor
) -> None:
    before = copy.deepcopy(network.state_dict())
    defense = build(built_in(name), network, x)
    with torch.inference_mode():
        assert defense(x).shape == (5, 10)
    leaf = x.clone().requires_grad_()
    defense(leaf).sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().sum() > 0
    composed = defense.predict(x, defense.adapt(x))
    assert composed.shape == (5, 10)
    assert not network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_settings_are_filled_in_and_checked() -> None:
    assert built_in("tent") == built_in("Tent", {"lr": "0.001", "steps": "1"})
    assert built_in("hedge").settings_json == '{"eps": "8/255", "step_size": "4/255", "steps": 20}'
    assert built_in("tent").with_steps(4).steps == 4
    for name, settings, words in (
        ("tent", {"steps": 0}, "steps of tent"),
        ("tent", {"steps": "many"}, "steps of tent"),
        ("tent", {"lr": -1}, "lr of tent"),
        ("norm", {"share": 2}, "share of norm"),
        ("norm", {"steps": 2}, "no setting 'steps'"),
        ("tnet", {}, "did you mean tent"),
    ):
        with pytest.raises(SpecError, match=words):
            built_in(name, settings)


def test_a_smooth_sign_is_the_sign_with_a_gradient() -> None:
    values = torch.tensor([[-3.0, 0.0, 1.0, 4.0]], dtype=torch.float64, requires_grad=True)
    signs = smooth_sign(values, width=0.5)
    assert signs.tolist() == [[-1.0, 0.0, 1.0, 1.0]]
    (slope,) = torch.autograd.grad(signs.sum(), values)
    scale = 0.5 * 2.0  # the mean absolute value is 2
    torch.testing.assert_close(slope, 1 / (values / scale).cosh() ** 2 / scale)
    empty = torch.zeros(1, 3, requires_grad=True)
    (flat,) = torch.autograd.grad(smooth_sign(empty).sum(), empty)
    assert torch.isfinite(flat).all()


@pytest.mark.parametrize("last", [None, 1, 5])
def test_anti_adversary_unrolled(network: nn.Module, x: Tensor, last: int | None) -> None:
    leaf, steps = x.clone().requires_grad_(), 3
    added = torch.zeros_like(x).requires_grad_()
    label = network(x).argmax(1)
    for number in range(steps):
        if last is not None and number == steps - last:
            added = added.detach().requires_grad_()
        seen = leaf if last is None or number >= steps - last else leaf.detach()
        loss = -F.cross_entropy(network(seen + added), label, reduction="sum")
        (grad,) = torch.autograd.grad(loss, added, create_graph=True)
        added = added + 0.05 * soft_sign(grad)
    (right,) = torch.autograd.grad(network(leaf + added).sum(), leaf)
    defense = build(built_in("anti-adversary", {"steps": 3, "alpha": 0.05}), network, x)
    whole = defense.unroll(leaf, last=last)
    assert torch.equal(whole, defense.adapt(x)), "forward it is the defense itself"
    (actual,) = torch.autograd.grad(defense.predict(leaf, whole).sum(), leaf)
    torch.testing.assert_close(actual, right)
    (stale,) = torch.autograd.grad(defense(leaf).sum(), leaf)
    assert not torch.allclose(actual, stale, rtol=1e-3)


def test_hedge_unrolled(network: nn.Module, x: Tensor) -> None:
    eps, step = 0.1, 0.04
    leaf = x.clone().requires_grad_()
    torch.manual_seed(3)
    added = (2 * torch.rand_like(x) - 1) * eps
    for _ in range(3):
        added = added.requires_grad_()
        loss = -network(leaf + added).log_softmax(1).sum()
        (grad,) = torch.autograd.grad(loss, added, create_graph=True)
        added = (added + step * soft_sign(grad)).clamp(-eps, eps)
        added = (leaf + added).clamp(0, 1) - leaf
    (right,) = torch.autograd.grad(network(leaf + added).sum(), leaf)
    settings = {"steps": 3, "eps": "0.1", "step_size": Fraction(1, 25)}
    defense = build(built_in("hedge", settings), network, x)
    torch.manual_seed(3)
    (actual,) = torch.autograd.grad(defense.predict(leaf, defense.unroll(leaf)).sum(), leaf)
    torch.testing.assert_close(actual, right)


@pytest.mark.parametrize("last", [None, 1])
def test_unrolled_signs_cost_what_the_dry_run_says(last: int | None, tmp_path: Path) -> None:
    settings = {"steps": 3, "alpha": 0.01}
    spec = replace(
        spec_of(3, eps=Fraction(1, 10**6), iterations=2, batch=3, cascade=False, last=last),
        defense=built_in("anti-adversary", settings),
    )
    network, images = small_network(), tiny_images(3)
    subject = RunInputs(network=network, images=images, labels=labels_of(network, images))
    evaluation = Evaluation(subject, RunOptions(results=tmp_path))
    (outcome,) = evaluation.outcomes(spec, "unrolled")
    bound = stage_passes(spec, "unrolled", 5)
    assert (outcome.forwards, outcome.backwards) == (3 * bound.forwards, 3 * bound.backwards)


STAND_INS = ("anti-adversary", "hedge", "ttc", "jpeg", "bit-depth")
"""Their gradients are those of smooth stand-ins, which are compared with stand-ins written out."""

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "norm": [{}, {"share": 0.3}],
    "tent": [{"steps": 2, "lr": 0.05}],
    "eata": [{"steps": 2, "lr": 0.05, "margin": 0.9}],
    "sar": [{"steps": 2, "lr": 0.05, "margin": 0.9, "rho": 0.3}],
    "et3": [{"steps": 2, "alpha": 20.0, "radius": 30.0}],
    "ig-defense": [{"keep": 0.4}],
}
"""Such that a gradient past the adaptation is another; the others as they are."""

DENOISED = "diffpure"
"""It knows images of few shapes: see its own tests."""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (name, settings)
        for name in BUILT_IN
        if name not in (*STAND_INS, DENOISED)
        for settings in SETTINGS.get(name, [{}])
    ],
)
def test_the_gradient_of_every_other_is_that_of_differences(
    name: str, settings: dict[str, Any]
) -> None:
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(5)).double()
    defense = build(built_in(name, settings), smooth_network().requires_grad_(False), x)
    defense = defense.after(1 - x) if hasattr(defense, "after") else defense

    def answer(x: Tensor) -> Tensor:
        torch.manual_seed(3)  # of those that draw
        logits: Tensor = defense.predict(x, defense.unroll(x))
        return logits

    assert gradcheck(answer, (x.requires_grad_(),), atol=1e-6, rtol=1e-4)


def test_the_gradient_of_what_a_batch_leaves_behind_is_that_of_differences() -> None:
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(5)).double()
    defense = build(built_in("tent-online", {"lr": 0.05}), smooth_network(), x).after(1 - x)

    def victims(batch: Tensor) -> Tensor:
        logits: Tensor = defense.unroll_after(batch)(x)
        return logits

    assert gradcheck(victims, ((x**2).requires_grad_(),), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(victims(x**2).detach(), defense.after(x**2)(x))


@pytest.mark.parametrize("name", ["anti-adversary", "hedge"])
def test_a_trajectory_holds_what_fewer_steps_lead_to(
    name: str, network: nn.Module, x: Tensor
) -> None:
    stages = []
    for steps in (1, 2, 3):
        torch.manual_seed(5)
        stages.append(build(built_in(name, {"steps": steps}), network, x).adapt(x))
    torch.manual_seed(5)
    start, *actual = build(built_in(name, {"steps": 3}), network, x).trajectory(x)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, stages, strict=True))
    assert not torch.equal(start, stages[0])


def test_the_cards_of_those_that_repeat_no_answer_say_so(network: nn.Module, x: Tensor) -> None:
    for name, card in DEFENSES.items():
        if name in ("none", "dent"):
            continue
        if name == "diffpure":  # of images of the digits' size alone
            defense = build(built_in(name), tiny_network(channels=1), torch.rand(4, 1, 8, 8))
            images = torch.rand(4, 1, 8, 8)
        else:
            defense, images = build(built_in(name), network, x), x
        with torch.no_grad():
            assert card.chance is not torch.equal(defense(images), defense(images)), name
