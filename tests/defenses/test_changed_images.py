"""Defenses that change the image, average answers or mask features, against slow transcriptions."""

from __future__ import annotations

import io
import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import dentbench
from dentbench.attacks.checks import failed
from dentbench.attacks.cost import stage_passes
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.defenses.build import build
from dentbench.defenses.naming import built_in
from dentbench.defenses.stand_ins import rounded
from dentbench.errors import ModelError, SpecError
from dentbench.spec.evaluation import AttackSpec, DataSpec, EvalSpec, ModelSpec
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model
from tests.reference import soft_sign, tiny_network


@pytest.fixture
def network() -> nn.Module:
    return tiny_network().double().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value.sum(), leaf)
    return result


# --- ET3 -----------------------------------------------------------------------------------------


def slow_et3(
    network: nn.Module, image: Tensor, steps: int, alpha: float, radius: float, graph: bool
) -> Tensor:
    """The difference to an image (C, H, W), as the released wrapper computes it."""
    scale = math.sqrt(image.numel() / (3 * 224 * 224))
    delta = torch.zeros_like(image).requires_grad_()
    for _ in range(steps):
        energy = -network((image + delta)[None]).logsumexp(1)[0]
        (slope,) = torch.autograd.grad(energy, delta, create_graph=graph)
        delta = delta - alpha * scale * slope / (slope.norm() + 1e-12)
        delta = (image + delta).clamp(0, 1) - image
        delta = delta * torch.clamp(radius * scale / (delta.norm() + 1e-8), max=1.0)
        delta = delta if graph else delta.detach().requires_grad_()
    return delta


@pytest.mark.parametrize(("steps", "alpha", "radius"), [(1, 5.0, 90.0), (3, 20.0, 30.0)])
def test_et3(network: nn.Module, x: Tensor, steps: int, alpha: float, radius: float) -> None:
    settings = {"steps": steps, "alpha": alpha, "radius": radius}
    defense = build(built_in("et3", settings), network, x)
    added = torch.stack([slow_et3(network, image, steps, alpha, radius, False) for image in x])
    torch.testing.assert_close(defense.adapt(x), added.detach())
    torch.testing.assert_close(defense(x), network(x + added).detach())


def test_et3_unrolled(network: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    added = torch.stack([slow_et3(network, image, 2, 20.0, 30.0, True) for image in leaf])
    right = gradient(network(leaf + added), leaf)
    defense = build(built_in("et3", {"steps": 2, "alpha": 20.0, "radius": 30.0}), network, x)
    torch.testing.assert_close(gradient(defense.predict(leaf, defense.unroll(leaf)), leaf), right)
    assert not torch.allclose(gradient(defense(leaf), leaf), right, rtol=1e-3)


def test_et3_lowers_the_energy(network: nn.Module, x: Tensor) -> None:
    defense = build(built_in("et3", {"alpha": 1.0}), network, x)
    assert (defense(x).logsumexp(1) > network(x).logsumexp(1)).all()


# --- TTE -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flip", "side", "pad"), [(True, 8, 1), (False, 8, 1), (True, 32, 4)])
def test_tte_averages_views(network: nn.Module, flip: bool, side: int, pad: int) -> None:
    x = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1)).double()
    leaf = x.clone().requires_grad_()
    defense = build(built_in("tte", {"crops": 3, "flip": flip}), network, x)
    total, views = torch.zeros(3, 10).double(), 0
    for mirrored in (False, True)[: 2 if flip else 1]:
        image = torch.stack(
            [item[:, :, torch.arange(side - 1, -1, -1)] if mirrored else item for item in leaf]
        )
        total, views = total + network(image), views + 1
        for place in defense.places:
            top, left = (math.floor((2 * pad + 1) * part) for part in place)
            window = torch.zeros(3, 3, side + 2 * pad, side + 2 * pad).double()
            window[:, :, pad : pad + side, pad : pad + side] = image
            crop = window[:, :, top : top + side, left : left + side]
            total, views = total + network(crop), views + 1
    torch.testing.assert_close(defense(x), (total / views).detach())
    assert len({tuple(place) for place in defense.places}) == 3
    right = gradient(total / views, leaf)
    torch.testing.assert_close(gradient(defense.predict(leaf, defense.unroll(leaf)), leaf), right)


# --- TTC -----------------------------------------------------------------------------------------


def slow_ttc(network: nn.Module, x: Tensor, tau: float, graph: bool) -> Tensor:
    """Two steps of the released counterattack, image by image but for the random start."""
    eps, step, beta = 0.1, 0.04, 2.0
    encode = network[:-1]  # type: ignore[index]
    start = (2 * torch.rand_like(x) - 1) * eps
    start = torch.max(torch.min(start, 1 - x), -x).detach()
    result = []
    for image, noise in zip(x, start, strict=True):
        own, visited = encode(image[None])[0], [noise]
        first = encode((image + noise)[None])[0]
        ratio = (first - own).norm() / own.norm()
        delta = noise.clone().requires_grad_()
        for _ in range(2):
            loss = ((encode((image + delta)[None])[0] - own) ** 2).sum()
            (slope,) = torch.autograd.grad(loss, delta, create_graph=graph, retain_graph=True)
            sign = soft_sign(slope[None])[0] if graph else slope.sign()
            delta = (delta + step * sign).clamp(-eps, eps)
            delta = (image + delta).clamp(0, 1) - image
            delta = delta if graph else delta.detach().requires_grad_()
            visited.append(delta)
        weights = torch.exp(beta * torch.arange(3).double())
        mean = sum(
            weight * point for weight, point in zip(weights / weights.sum(), visited, strict=True)
        )
        result.append(mean if ratio < tau else noise)
    return torch.stack(result)


TTC = {"eps": "0.1", "step_size": Fraction(1, 25)}


@pytest.mark.parametrize("tau", [1e-6, 0.05, 1.0])
def test_ttc(network: nn.Module, x: Tensor, tau: float) -> None:
    torch.manual_seed(3)
    added = slow_ttc(network, x, tau, False).detach()
    defense = build(built_in("ttc", {**TTC, "tau": tau}), network, x)
    torch.manual_seed(3)
    torch.testing.assert_close(defense.adapt(x), added)
    torch.manual_seed(3)
    torch.testing.assert_close(defense(x), network(x + added))


def test_ttc_unrolled(network: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    torch.manual_seed(3)
    right = gradient(network(leaf + slow_ttc(network, leaf, 1.0, True)), leaf)
    defense = build(built_in("ttc", {**TTC, "tau": 1.0}), network, x)
    torch.manual_seed(3)
    unrolled = defense.unroll(leaf)
    torch.testing.assert_close(gradient(defense.predict(leaf, unrolled), leaf), right)
    torch.manual_seed(3)
    assert torch.equal(unrolled, defense.adapt(x)), "forward it is the defense itself"
    torch.manual_seed(3)
    shorter = gradient(defense.predict(leaf, defense.unroll(leaf, last=1)), leaf)
    assert not torch.allclose(shorter, right, rtol=1e-3)


# --- IG-Defense ----------------------------------------------------------------------------------


def slow_masked(network: nn.Module, x: Tensor, keep: int, sigma: float) -> Tensor:
    """Both passes, image by image: the first pass's softmax mixes the masks of the classes."""
    head = network[-1]  # type: ignore[index]
    noise = sigma * torch.randn_like(x)
    rows = []
    for image, own in zip(x, noise, strict=True):
        shares = torch.softmax(100 * network((image + own)[None])[0], 0)
        mask = torch.zeros(head.in_features).double()
        for number, share in enumerate(shares):
            kept = sorted(
                range(head.in_features), key=lambda unit: -float(head.weight[number, unit].abs())
            )[:keep]
            mask = mask + share * torch.tensor(
                [float(unit in kept) for unit in range(head.in_features)]
            )
        rows.append(head(mask * network[:-1](image[None])[0]))  # type: ignore[index]
    return torch.stack(rows)


def test_ig_defense_and_its_gradient(network: nn.Module, x: Tensor) -> None:
    network[-1].weight.data /= 50  # type: ignore[index] # so that no class has all of the mask
    defense = build(built_in("ig-defense", {"keep": 0.25, "sigma": "0.1"}), network, x)
    leaf = x.clone().requires_grad_()
    torch.manual_seed(3)
    right = slow_masked(network, leaf, 3, 0.1)
    torch.manual_seed(3)
    actual = defense(leaf)
    torch.testing.assert_close(actual, right)
    torch.testing.assert_close(gradient(actual, leaf), gradient(right, leaf))
    torch.manual_seed(3)
    stale = defense.predict(leaf, defense.adapt(leaf))
    torch.testing.assert_close(stale, actual)
    assert not torch.allclose(gradient(stale, leaf), gradient(defense(leaf), leaf), rtol=1e-3)
    assert not network[-1]._forward_pre_hooks, "nothing is left on the network"  # type: ignore[index]


def test_networks_without_a_linear_layer_are_refused_in_words(x: Tensor) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()).double()
    for name in ("ttc", "ig-defense"):
        with pytest.raises(ModelError, match=rf"{name} needs the features.*no nn\.Linear"):
            build(built_in(name), plain, x)
    rows = nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(192, 10)).double()
    build(built_in("ttc"), rows, x)(x)
    rest = (nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten())
    words = nn.Sequential(nn.Flatten(2), nn.Linear(64, 10), *rest)
    for name in ("ttc", "ig-defense"):
        with pytest.raises(ModelError, match=rf"{name} needs one row of features.*\(2, 3, 64\)"):
            build(built_in(name), words.double(), x)(x[:2])


def test_a_linear_layer_inside_is_not_taken_for_the_classifier(x: Tensor) -> None:
    inside = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Unflatten(1, (6, 1)))
    network = nn.Sequential(inside, nn.Conv1d(6, 10, 1), nn.Flatten()).double()
    for name in ("ttc", "ig-defense"):
        with pytest.raises(ModelError, match=rf"{name} needs .* has 6 outputs for 10 classes"):
            build(built_in(name), network, x)(x)


# --- references ----------------------------------------------------------------------------------


def test_smoothing(network: nn.Module, x: Tensor) -> None:
    defense = build(built_in("smoothing", {"sigma": 0.3, "draws": 5}), network, x)
    torch.manual_seed(3)
    noise = 0.3 * torch.randn(3, 5, 3, 8, 8, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    mean = torch.stack([network(leaf + noise[:, draw]).softmax(1) for draw in range(5)]).mean(0)
    torch.manual_seed(3)
    actual = defense.predict(leaf, defense.unroll(leaf))
    torch.testing.assert_close(actual, mean.log())
    torch.testing.assert_close(gradient(actual, leaf), gradient(mean.log(), leaf))


def test_bit_depth(network: nn.Module, x: Tensor) -> None:
    defense = build(built_in("bit-depth", {"bits": 2}), network, x)
    levels = torch.tensor(
        [min(range(4), key=lambda item: abs(value - item / 3)) for value in x.flatten()]
    )
    seen = levels.double().view_as(x) / 3
    torch.testing.assert_close(defense.preprocess(x, defense.adapt(x)), seen)
    leaf, shown = x.clone().requires_grad_(), seen.clone().requires_grad_()
    straight = gradient(network(shown), shown)  # BPDA: the rounding counts as the identity
    torch.testing.assert_close(
        gradient(defense.predict(leaf, defense.unroll(leaf)), leaf), straight
    )
    torch.testing.assert_close(gradient(defense(leaf), leaf), straight)


@pytest.mark.parametrize(
    ("shape", "quality"), [((3, 16, 24), 75), ((1, 8, 8), 40), ((3, 11, 13), 90)]
)
def test_jpeg_is_libjpegs(network: nn.Module, shape: tuple[int, ...], quality: int) -> None:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(1, shape[0], 4, 4, generator=generator)
    image = nn.functional.interpolate(coarse, shape[1:], mode="bilinear")[0].mul(255).round() / 255
    pixels = (255 * image).byte().permute(1, 2, 0).squeeze(2).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0)
    back = torch.tensor(list(Image.open(stream).tobytes()), dtype=torch.float64)
    back = back.view(*shape[1:], shape[0]).permute(2, 0, 1)
    defense = build(built_in("jpeg", {"quality": quality}), network, image[None])
    actual = 255 * defense.change(image[None].double())[0]
    # Its transform is in whole numbers: single pixels may be a few levels apart.
    assert (actual - back).abs().max() <= 4 and (actual - back).abs().mean() < 0.5
    assert (255 * image - back).abs().mean() > (actual - back).abs().mean()


def test_jpegs_stand_in_is_its_transform_without_rounding(network: nn.Module, x: Tensor) -> None:
    defense = build(built_in("jpeg"), network, x)
    leaf = (0.4 + 0.2 * x).requires_grad_()  # no pixel is clipped
    weights = torch.rand(x.shape, generator=torch.Generator().manual_seed(4)).double()
    actual = gradient(weights * defense.change(leaf), leaf)
    torch.testing.assert_close(actual, weights, rtol=1e-5, atol=1e-7)  # there and back again
    shown = defense.change(leaf).detach().requires_grad_()
    whole = gradient(defense.predict(leaf, defense.unroll(leaf)), leaf)
    torch.testing.assert_close(whole, gradient(network(shown), shown), rtol=1e-5, atol=1e-7)
    with pytest.raises(SpecError, match="at most 100"):
        build(built_in("jpeg", {"quality": 101}), network, x)
    with pytest.raises(ModelError, match="1 or 3 channels"):
        defense(torch.rand(2, 4, 8, 8).double())
    values = torch.tensor([0.4, 1.6], requires_grad=True)
    assert rounded(values).tolist() == [0.0, 2.0]
    assert gradient(rounded(values), values).tolist() == [1.0, 1.0]


def test_settings_of_these_are_checked() -> None:
    assert built_in("tte", {"flip": "false"}) == built_in("TTE", {"flip": False})
    assert dict(built_in("et3", {"alpha": "20"}).settings)["alpha"] == 20.0
    for name, settings, words in (
        ("tte", {"flip": "maybe"}, "flip of tte is 'maybe'; allowed: true, false"),
        ("ttc", {"tau": 3}, "tau of ttc is 3.*at most 1"),
        ("et3", {"radius": 0}, "radius of et3"),
        ("jpeg", {"quality": 0}, "quality of jpeg"),
    ):
        with pytest.raises(SpecError, match=words):
            built_in(name, settings)


# --- costs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tte", "ttc", "ig-defense", "smoothing", "sar", "eata", "et3"])
def test_an_answer_costs_at_most_what_a_dry_run_says(
    name: str, network: nn.Module, x: Tensor
) -> None:
    spec = built_in(name)
    counter = CallCounter()
    counted = CountedNetwork(network, counter)
    build(spec, counted, x)(x)
    data = DataSpec(name="noise", sha256="", first=0, count=3)
    whole = EvalSpec(model=ModelSpec(name="m", sha256=""), data=data, defense=spec)
    most = stage_passes(whole, "natural", 10) * len(x)
    assert counter.forwards <= most.forwards and counter.backwards <= most.backwards
    assert counter.forwards > most.forwards / 2, "and not much less"


@pytest.mark.whole_checks
def test_masks_of_a_noisy_pass_are_declared_to_be_drawn(tmp_path: Path) -> None:
    """Few images show it: draws are compared, and no check takes the chance for a memory."""
    spec, digits = built_in("ig-defense"), load_dataset("digits")
    assert spec.random and "random" not in str(built_in("jpeg").settings)
    actual = dentbench.evaluate(
        load_model("digits-robust").network,
        *(part[:4] for part in (digits.images, digits.labels)),
        defense=spec,
        attack=AttackSpec(name="apgd-ce", eps=Fraction(1, 5), iterations=2),
        protocols="transfer",
        results=tmp_path,
        progress=None,
    )
    names = {check.name for check in failed(actual.defended.checks)}
    assert "repeatable" in names
    assert not names & {"separable", "fresh-process", "same-verdict"}
    assert json.loads(actual.defended.chance or "")["draws"] == 10
