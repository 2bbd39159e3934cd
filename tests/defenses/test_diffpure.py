"""Purification against its process written out, with a denoiser whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dentbench.defenses.build import build
from dentbench.defenses.diffpure import Purification
from dentbench.defenses.naming import built_in
from dentbench.errors import ModelError, SpecError
from dentbench.zoo import denoisers
from dentbench.zoo.denoisers import DENOISERS, fit_denoiser, load_denoiser, signal
from dentbench.zoo.training.seeded_training import Split
from dentbench.zoo.training.train import read_digits, train_denoiser
from tests.reference import tiny_network

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def network() -> nn.Module:
    return tiny_network().double().requires_grad_(False)


class Guess(nn.Module):
    """Takes a smooth function of the image and the time for its noise."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(x) * (1 + time[:, None, None, None])


def kept(time: float) -> float:
    """The share of the signal's variance: beta rises from 0.1 to 20, integrated in small steps."""
    count = 20000
    betas = (0.1 + 19.9 * (number + 0.5) / count * time for number in range(count))
    return math.exp(-sum(betas) * time / count)


def slow_purified(x: Tensor, steps: int, time: float) -> Tensor:
    """The images diffused and denoised by ancestral sampling, its posterior written out."""
    guess = Guess()
    y = math.sqrt(kept(time)) * (2 * x - 1) + math.sqrt(1 - kept(time)) * torch.randn_like(x)
    for number in range(steps):
        now, later = (time * (steps - item) / steps for item in (number, number + 1))
        a, b = kept(now), kept(later)
        noise = guess(y, torch.full((len(x),), now, dtype=x.dtype))
        clean = (y - math.sqrt(1 - a) * noise) / math.sqrt(a)
        step = 1 - a / b  # the posterior of y later, given y now and the clean image
        mean = math.sqrt(b) * step / (1 - a) * clean + math.sqrt(a / b) * (1 - b) / (1 - a) * y
        y = mean + math.sqrt(step * (1 - b) / (1 - a)) * torch.randn_like(x)
    return (y + 1) / 2


@pytest.mark.parametrize("steps", [1, 3])
def test_the_process_is_ancestral_sampling(network: nn.Module, steps: int) -> None:
    defense = Purification(network, steps=steps, time=0.2, denoiser=Guess())  # type: ignore[arg-type]
    leaf = IMAGES.clone().requires_grad_()
    torch.manual_seed(3)
    right = slow_purified(leaf, steps, 0.2)
    (slope,) = torch.autograd.grad(network(right).sum(), leaf)
    torch.manual_seed(3)
    torch.testing.assert_close(IMAGES + defense.adapt(IMAGES), right.detach(), rtol=1e-5, atol=1e-6)
    for last in (None, steps):
        torch.manual_seed(3)
        logits = defense.predict(leaf, defense.unroll(leaf, last=last))
        (actual,) = torch.autograd.grad(logits.sum(), leaf)
        torch.testing.assert_close(actual, slope, rtol=1e-4, atol=1e-6)
    torch.manual_seed(3)
    torch.testing.assert_close(defense(IMAGES), network(right).detach(), rtol=1e-5, atol=1e-5)


def released(x: Tensor, time: float, count: int = 1000) -> Tensor:
    """The released scheme on CIFAR-10: discrete diffusion, Euler-Maruyama on the reverse SDE.

    Its last noise is left out, as the chosen steps leave it out.
    """
    betas = [0.1 / count + (20 - 0.1) / count * number / (count - 1) for number in range(count)]
    steps = round(time * count)
    left = math.prod(1 - beta for beta in betas[:steps])
    y = math.sqrt(left) * (2 * x - 1) + math.sqrt(1 - left) * torch.randn_like(x)
    for number in range(steps):
        t, dt = (steps - number) / count, 1 / count
        beta = 0.1 + t * (20 - 0.1)
        share = math.exp(-0.5 * (20 - 0.1) * t**2 - 0.1 * t)
        score = -Guess()(y, torch.full((len(x),), t, dtype=x.dtype)) / math.sqrt(1 - share)
        drift = -0.5 * beta * y - beta * score
        noise = torch.randn_like(x) if number < steps - 1 else 0.0
        y = y - drift * dt + math.sqrt(beta * dt) * noise
    return (y + 1) / 2


def test_as_many_steps_as_the_released_code_takes_lead_where_it_does(network: nn.Module) -> None:
    defense = Purification(network, steps=100, time=0.1, denoiser=Guess())  # type: ignore[arg-type]
    torch.manual_seed(3)
    actual = defense.change(IMAGES)
    torch.manual_seed(3)
    expected = released(IMAGES, 0.1)
    gap = float((actual - expected).abs().mean())
    assert 0 < gap < 0.05 * float((IMAGES - expected).abs().mean())


def test_a_truncated_gradient_takes_the_first_steps_for_the_identity(network: nn.Module) -> None:
    defense = Purification(network, steps=3, time=0.2, denoiser=Guess())  # type: ignore[arg-type]
    leaf = IMAGES.clone().requires_grad_()
    gradients = []
    for last in (1, 3):
        torch.manual_seed(3)
        logits = defense.predict(leaf, defense.unroll(leaf, last=last))
        gradients.append(torch.autograd.grad(logits.sum(), leaf)[0])
    short, whole = gradients
    assert short.abs().sum() > 0 and not torch.allclose(short, whole, rtol=1e-2)


def test_the_embedded_denoiser_of_the_digits_denoises(network: nn.Module) -> None:
    test = 2 * read_digits("test").images(64) - 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(test.shape, generator=generator)
    time = torch.full((64,), 0.1)
    left = float(signal(time)[0])
    noisy = left**0.5 * test + (1 - left) ** 0.5 * noise
    actual = load_denoiser((1, 8, 8))(noisy, time)
    assert (actual - noise).square().mean() < 0.5 * noise.square().mean()
    clean = (noisy - (1 - left) ** 0.5 * actual) / left**0.5
    assert (clean - test).square().mean() < 0.5 * (noisy / left**0.5 - test).square().mean()
    digits = tiny_network(channels=1)
    defense = build(built_in("diffpure", {"steps": 2}), digits, test[:2])
    answers = []
    for _ in range(2):  # it is loaded by the first question, which is answered like any other
        torch.manual_seed(0)
        answers.append(defense((test[:2] + 1) / 2))
    assert torch.isfinite(answers[0]).all() and torch.equal(*answers)
    with pytest.raises(ModelError, match=r"denoisers for images of 1x8x8.*these are 3x8x8"):
        build(built_in("purification"), network, IMAGES)(IMAGES)
    with pytest.raises(SpecError, match=r"time of diffpure is 0\.3; it must be at most 0\.25"):
        build(built_in("diffpure", {"time": 0.3}), network, IMAGES)


def test_training_repeats_and_its_file_is_what_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(DENOISERS[1, 8, 8], width=8, blocks=1, steps=6, batch=8, flip=True)
    data = read_digits("train")
    few = Split(data.pixels[:16], data.labels[:16], data.white)
    first, losses = fit_denoiser(recipe, few)
    again, _ = fit_denoiser(recipe, few)
    assert len(losses) == 6 and losses[-1] < losses[0]
    for ours, theirs in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    monkeypatch.setattr(denoisers, "DENOISERS", {(1, 8, 8): recipe})
    monkeypatch.setattr("dentbench.zoo.training.train.DENOISERS", {(1, 8, 8): recipe})
    path = train_denoiser(None, tmp_path)
    loaded = load_denoiser((1, 8, 8), tmp_path)
    assert path.name == "denoiser-digits.safetensors" and not loaded.training
    save_file({name: item.half() for name, item in first.state_dict().items()}, path)
    close = zip(first.parameters(), load_denoiser((1, 8, 8), tmp_path).parameters(), strict=True)
    assert all(torch.allclose(ours, theirs, atol=1e-2) for ours, theirs in close)
