"""Dent against the released code's outputs, against a slow reference, and against its promises."""

from __future__ import annotations

import copy
import itertools
import json
import re
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from dentbench.adapt.adaptation import divergence
from dentbench.adapt.blur import gaussian_blur
from dentbench.adapt.dent import Dent
from dentbench.adapt.diagnostics import diagnose
from dentbench.adapt.optimizers import adamod, initial_state
from dentbench.attacks.base import answered
from dentbench.errors import ModelError
from dentbench.spec.evaluation import DentSpec
from tests.reference import golden_cases, golden_network, golden_tensors, slow_dent, tiny_network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_released_code_was_run_on_the_whole_grid() -> None:
    names = ("loss", "statistics", "optimizer")
    seen = {tuple(case[name] for name in names) for case in golden_cases()}
    assert seen == set(
        itertools.product(("shot", "entropy"), ("running", "batch"), ("adamod", "adam", "sgd"))
    )


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case["case"])
def test_equals_the_released_code(case: dict[str, Any]) -> None:
    golden = golden_tensors()
    name = case["case"]
    settings = {key: value for key, value in case.items() if key != "case"}
    dent = Dent(golden_network(), DentSpec(mode="instance", **settings))
    images = len(golden[f"{name}.logits"])
    x = golden["x"][:images].clone().requires_grad_()

    adaptation = dent.adapt(x)
    logits = dent.predict(x, adaptation)
    loss = F.cross_entropy(logits, golden["y"][:images], reduction="sum")
    (grad,) = torch.autograd.grad(loss, x)

    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(logits, golden[f"{name}.logits"], **close)
    torch.testing.assert_close(grad, golden[f"{name}.input_grad"], **close)
    pairs = dent.affine_parameters(adaptation)
    assert len(pairs) == 3
    for k, (scale, shift) in enumerate(pairs.values()):
        torch.testing.assert_close(scale, golden[f"{name}.affine{k}.weight"], **close)
        torch.testing.assert_close(shift, golden[f"{name}.affine{k}.bias"], **close)


MODES = ("instance", "batch")
LOSSES = ("shot", "entropy")
STATISTICS = ("running", "batch", "mix:0.3")
BLURS = ("none", "static", "dynamic")
COMBINED = [*itertools.product(MODES, LOSSES, STATISTICS, BLURS)]
"""Every combination of what is inside of an update; the optimizers, which make it, take turns."""


@pytest.mark.parametrize(
    ("mode", "loss", "statistics", "blur", "optimizer"),
    [
        (*item, ("adamod", "adamod-paper", "adam", "sgd")[(number + number // 12) % 4])
        for number, item in enumerate(COMBINED)
    ],
)
def test_equals_the_slow_reference(
    mode: str, loss: str, statistics: str, optimizer: str, blur: str, images: Tensor
) -> None:
    spec = DentSpec(
        mode=mode,
        loss=loss,
        statistics=statistics,
        optimizer=optimizer,
        blur=blur,
        steps=3,
        lr=0.03,
    )
    assert_equals_the_slow_reference(spec, images[:3])


@pytest.mark.parametrize(
    "settings",
    [
        {"blur": "static", "steps": 0},
        {"blur": "static", "steps": 0, "statistics": "batch", "sigma": 0.6},
        {"blur": "static", "padding": "reflect", "sigma": 2.2},
        {"blur": "dynamic", "padding": "reflect", "sigma_lr": 0.3},
        {"blur": "dynamic", "padding": "replicate", "sigma": 0.4},
        {"blur": "dynamic", "sigma": 0.3, "sigma_lr": 0.5, "steps": 4},  # passes below zero
        {"blur": "dynamic", "delta": "none", "steps": 5},
        {"blur": "dynamic", "delta": "affine-after:1", "lr": 0.03},
        {"blur": "dynamic", "delta": "affine-after:3", "steps": 4, "optimizer": "adamod-paper"},
        {"blur": "dynamic", "delta": "affine-after:2", "optimizer": "sgd", "gamma_lr": 0.02},
        {"blur": "dynamic", "delta": "none", "statistics": "mix:0.7", "optimizer": "sgd"},
        {"gamma_lr": 0.0},
        {"gamma_lr": 0.01, "beta_lr": 0.3, "optimizer": "sgd", "blur": "dynamic"},
        {"gamma_lr": 0.01, "beta_lr": 0.3, "optimizer": "adamod-paper", "steps": 4},
        {"optimizer": "sgd", "nesterov": False, "momentum": 0.5},
        {"statistics": "mix:0"},
        {"statistics": "mix:1"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["instance", "batch"])
def test_settings_equal_the_slow_reference(
    mode: str, settings: dict[str, Any], images: Tensor
) -> None:
    assert_equals_the_slow_reference(DentSpec(**{"mode": mode, "steps": 3, **settings}), images[:3])


def assert_equals_the_slow_reference(spec: DentSpec, x: Tensor) -> None:
    model = tiny_network().double()
    x = x.double()
    torch.testing.assert_close(Dent(model, spec)(x), slow_dent(model, spec, x), rtol=0, atol=1e-6)


def test_the_defaults_are_the_released_configuration() -> None:
    spec = DentSpec()
    assert (spec.mode, spec.steps, spec.loss, spec.statistics) == ("instance", 6, "shot", "running")
    assert (spec.optimizer, spec.lr, spec.beta1, spec.beta2, spec.beta3) == (
        "adamod",
        6e-3,
        0.99,
        0.999,
        0.6,
    )
    assert DentSpec(mode="batch").steps == 30


def test_effective_step_of_adamod() -> None:
    """Under a constant gradient the step over lr is .400, .878, 1, 1, 1, 1 at dent's settings."""
    spec = DentSpec()
    grad = torch.ones(1, dtype=torch.float64)
    state = initial_state(grad)
    steps = []
    for _ in range(6):
        change, state = adamod(grad, state, spec, spec.lr)
        steps.append(round(-change.item() / spec.lr, 3))
    assert steps == [0.4, 0.878, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("mode", ["instance", "batch"])
def test_zero_steps_is_the_model_bit_for_bit(mode: str, images: Tensor) -> None:
    model = tiny_network()
    still = Dent(model, DentSpec(mode=mode, steps=0), prepare=False)
    assert torch.equal(still(images), model(images))
    unblurred = DentSpec(mode=mode, steps=0, blur="static", sigma=0)
    assert torch.equal(Dent(model, unblurred, prepare=False)(images), model(images))


@pytest.mark.parametrize("mode", ["instance", "batch"])
def test_static_blur_alone_is_the_model_of_blurred_images(mode: str, images: Tensor) -> None:
    model = tiny_network()
    spec = DentSpec(mode=mode, delta="none", blur="static", sigma=0.7)
    assert spec.steps == 0
    blurred = gaussian_blur(images, torch.tensor(0.7))
    assert torch.equal(Dent(model, spec, prepare=False)(images), model(blurred))


@pytest.mark.parametrize(("mode", "shape"), [("instance", (6,)), ("batch", ())])
def test_sigma_adapts_jointly_and_stays_within_reach(
    mode: str, shape: tuple[int, ...], images: Tensor
) -> None:
    spec = DentSpec(mode=mode, blur="dynamic", steps=3, sigma_lr=0.5, optimizer="adam")
    adaptation = Dent(tiny_network(), spec).adapt(images)
    assert adaptation.sigma is not None and adaptation.affine is not None
    assert adaptation.sigma.shape == shape
    assert (adaptation.sigma >= 0).all()
    assert ((adaptation.sigma - 1).abs() > 0.1).all()
    assert not adaptation.sigma.requires_grad and not adaptation.affine.requires_grad
    assert adaptation.affine.ndim == len(shape) + 1


@pytest.mark.parametrize("mode", ["instance", "batch"])
def test_without_delta_the_layers_keep_their_parameters(mode: str, images: Tensor) -> None:
    model = tiny_network()
    dent = Dent(model, DentSpec(mode=mode, delta="none", blur="dynamic", steps=3))
    adaptation = dent.adapt(images)
    for name, (scale, shift) in dent.affine_parameters(adaptation).items():
        layer = model.get_submodule(name)
        assert torch.equal(scale, layer.weight) and torch.equal(shift, layer.bias)
    assert adaptation.sigma is not None and (adaptation.sigma != 1).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.03},
        {"blur": "dynamic", "padding": "reflect"},
        {"mode": "batch", "blur": "dynamic", "statistics": "mix:0.4"},
        {"mode": "batch", "blur": "static", "steps": 2},
        {"delta": "none", "blur": "dynamic", "statistics": "batch"},
    ],
    ids=str,
)
def test_the_published_gradient_is_that_of_the_last_forward(
    settings: dict[str, Any], images: Tensor
) -> None:
    dent = Dent(tiny_network().double(), DentSpec(**{"steps": 2, **settings}))
    x = images[:2, :, :4, :4].double().requires_grad_()
    adaptation = dent.adapt(x)
    assert gradcheck(lambda x: dent.predict(x, adaptation), (x,), fast_mode=True)
    dent(x).sum().backward()
    (expected,) = torch.autograd.grad(dent.predict(x, adaptation).sum(), x)
    assert x.grad is not None and torch.equal(x.grad, expected)


def test_the_model_handed_in_is_never_touched(images: Tensor) -> None:
    model = tiny_network().train()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    rng = torch.get_rng_state()
    x = images.clone().requires_grad_()

    logits = Dent(model, DentSpec(mode="batch", steps=2))(x)

    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())
    assert logits.requires_grad


def test_nothing_leaks_between_batches(images: Tensor) -> None:
    dent = Dent(tiny_network())
    fresh = dent(images)
    dent(1 - images)
    assert torch.equal(dent(images), fresh)


def test_adaptations_are_values_that_can_overlap(images: Tensor) -> None:
    dent = Dent(tiny_network(), DentSpec(lr=0.05))
    other = 1 - images
    first, second = dent.adapt(images), dent.adapt(other)
    assert torch.equal(dent.predict(images, first), dent(images))
    assert torch.equal(dent.predict(other, second), dent(other))
    assert not torch.equal(dent.predict(images, second), dent(images))


def test_calls_overlap_in_threads(images: Tensor) -> None:
    dent = Dent(tiny_network(), DentSpec(lr=0.05))
    batches = [images * scale for scale in (0.2, 0.4, 0.6, 0.8)]
    alone = [dent(batch) for batch in batches]
    together: dict[int, Tensor] = {}

    def run(i: int) -> None:
        for _ in range(5):
            together[i] = dent(batches[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, logits in enumerate(alone):
        torch.testing.assert_close(together[i], logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamod", "adamod-paper", "adam", "sgd"])
@pytest.mark.parametrize("blur", ["none", "static", "dynamic"])
def test_separable_images_are_independent(optimizer: str, blur: str, images: Tensor) -> None:
    spec = DentSpec(loss="entropy", optimizer=optimizer, blur=blur, lr=0.02)
    assert spec.separable
    dent = Dent(tiny_network(), spec, batch_size=len(images))
    alone = torch.cat([dent(image[None]) for image in images])
    torch.testing.assert_close(dent(images), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        DentSpec(lr=0.02),
        DentSpec(loss="entropy", statistics="batch", lr=0.02),
        DentSpec(loss="entropy", statistics="mix:0.2", lr=0.02),
        DentSpec(mode="batch", loss="entropy", statistics="running", lr=0.02),
        DentSpec(
            mode="batch",
            delta="none",
            blur="dynamic",
            loss="entropy",
            statistics="running",
            steps=5,
        ),
    ],
)
def test_coupled_images_are_not(spec: DentSpec, images: Tensor) -> None:
    assert not spec.separable
    dent = Dent(tiny_network(), spec, batch_size=len(images))
    alone = torch.cat([dent(image[None]) for image in images])
    assert (dent(images) - alone).abs().max() > 1e-4


class _Activated(nn.BatchNorm2d):
    """A BatchNorm2d subclass that does more than normalize, as some model zoos have."""

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), 0.3)


class _Exotic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = _Activated(4)
        self.unused = nn.BatchNorm2d(5)
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.norm(self.first(x))) + self.norm.weight.mean()
        logits: Tensor = self.last(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("mode", ["instance", "batch"])
@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_subclasses_and_unused_layers(mode: str, statistics: str, images: Tensor) -> None:
    torch.manual_seed(0)
    model = _Exotic().eval()
    if statistics == "batch":
        with pytest.raises(ModelError, match=r"layer plain has no scale and shift.*affine=True"):
            Dent(model, DentSpec(mode=mode, statistics=statistics))
        model.plain = nn.BatchNorm2d(4).eval()
    spec = DentSpec(mode=mode, statistics=statistics, steps=3, lr=0.1)
    dent = Dent(model, spec)
    adaptation = dent.adapt(images)
    pairs = dent.affine_parameters(adaptation)
    adapted = [name for name in ("norm", "unused", "plain") if getattr(model, name).affine]
    assert list(pairs) == adapted
    assert torch.equal(pairs["unused"][0], torch.ones_like(pairs["unused"][0]))
    assert not torch.equal(pairs["norm"][0], torch.ones_like(pairs["norm"][0]))
    if statistics == "running":
        untouched = Dent(model, DentSpec(mode=mode, statistics=statistics, steps=3, lr=1e-12))
        torch.testing.assert_close(untouched(images), model(images), rtol=0, atol=1e-6)


def test_input_gradients_leave_contiguous(images: Tensor) -> None:
    model = tiny_network().to(memory_format=torch.channels_last)
    x = images.to(memory_format=torch.channels_last).clone().requires_grad_()
    (grad,) = torch.autograd.grad(Dent(model)(x.contiguous()).sum(), x)
    y = images.clone().requires_grad_()
    (direct,) = torch.autograd.grad(Dent(model)(y).sum(), y)
    assert direct.is_contiguous()
    torch.testing.assert_close(grad, direct)


def test_runs_under_no_grad_and_inference_mode(images: Tensor) -> None:
    dent = Dent(tiny_network())
    expected = dent(images).detach()
    with torch.no_grad():
        assert torch.equal(dent(images), expected)
    with torch.inference_mode():
        assert torch.equal(dent(images.clone()), expected)


def test_one_image_of_one_value_per_channel() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()).eval()
    logits = Dent(model, DentSpec(mode="batch", steps=2))(torch.rand(1, 3, 1, 1))
    assert torch.isfinite(logits).all()


def test_a_model_without_batch_normalization_is_refused() -> None:
    with pytest.raises(ModelError, match="no BatchNorm2d"):
        Dent(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))


def test_a_converted_model_and_missing_statistics_are_refused() -> None:
    with pytest.raises(ModelError, match="already converted"):
        Dent(Dent(tiny_network()))
    free = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten())
    with pytest.raises(ModelError, match="statistics='batch'"):
        Dent(free)
    Dent(free, DentSpec(statistics="batch"))


def test_an_adaptation_fits_its_own_batch_only(images: Tensor) -> None:
    dent = Dent(tiny_network())
    with pytest.raises(ValueError, match="6 images' adaptation"):
        dent.predict(images[:2], dent.adapt(images))


def test_preprocess_is_what_the_network_is_shown(images: Tensor) -> None:
    model = tiny_network()
    blurred = Dent(model, DentSpec(mode="batch", steps=0, blur="static", sigma=0.8), prepare=False)
    shown = blurred.preprocess(images, blurred.adapt(images))
    assert not torch.equal(shown, images)
    assert torch.equal(model(shown), blurred(images))
    plain = Dent(model)
    assert torch.equal(plain.preprocess(images, plain.adapt(images)), images)


@pytest.mark.parametrize("blur", ["none", "static", "dynamic"])
def test_what_does_not_change_between_steps_is_computed_once(
    blur: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The convolution before the first layer, but for a blur that changes its input."""
    calls: list[nn.Module] = []
    plain = nn.Conv2d.forward

    def counted(layer: nn.Conv2d, x: Tensor) -> Tensor:
        calls.append(layer)
        return plain(layer, x)

    monkeypatch.setattr(nn.Conv2d, "forward", counted)
    torch.manual_seed(0)
    stem, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    model = nn.Sequential(stem, nn.BatchNorm2d(4), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    dent = Dent(model, DentSpec(steps=4, blur=blur))
    copied = [layer for layer in dent.network.modules() if isinstance(layer, nn.Conv2d)]
    x = torch.rand(2, 3, 8, 8)
    for _ in range(2):  # nothing is remembered from one batch to the next
        calls.clear()
        dent.adapt(x)
        counts = [sum(call is layer for call in calls) for layer in copied]
        assert counts == [1 if blur != "dynamic" else 4, 4]
        x = torch.rand(2, 3, 8, 8)


def test_an_adaptation_that_diverges_gives_no_answer_and_says_where() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))]
    model, x = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.rand(3, 3, 8, 8)
    dent = Dent(model, DentSpec(optimizer="sgd", lr=1e30, steps=5))
    said = divergence(dent.adapt(x))
    assert re.search(r"loss is (nan|-?inf) before update [2-5] of 5; .*--lr", said)
    assert not answered(dent(x)).any()
    assert not divergence(Dent(model, DentSpec(steps=1)).adapt(x))


def test_instance_wise_one_image_diverges_alone() -> None:
    """Its parameters are its own: the answers to the others are as if it were not there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3))
    dent = Dent(model, DentSpec(loss="entropy", steps=2, optimizer="sgd", lr=0.1), batch_size=3)
    x = torch.rand(3, 1, 4, 4)
    others = dent(x)
    x[1] = torch.inf
    together = dent(x)
    assert answered(together).tolist() == [True, False, True]
    assert torch.equal(together[[0, 2]], others[[0, 2]])
    diagnosis = diagnose(dent, [(x, dent.adapt(x))])
    assert diagnosis["loss_after"] is None and diagnosis["gamma_moved"] is None
    json.dumps(diagnosis, allow_nan=False)
