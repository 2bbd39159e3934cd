"""The diagnosis of an adaptation, against cases that can be computed by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from dentbench.adapt.adaptation import Adaptation
from dentbench.adapt.dent import Dent
from dentbench.adapt.diagnostics import diagnose
from dentbench.spec.evaluation import DentSpec
from tests.reference import slow_loss, tiny_network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("mode", ["instance", "batch"])
def test_numbers_of_a_jointly_adapted_batch(mode: str, images: Tensor) -> None:
    model = tiny_network().double()
    spec = DentSpec(mode=mode, loss="entropy", blur="dynamic", steps=8, lr=0.05)
    dent = Dent(model, spec)
    adaptation = dent.adapt(images)
    actual = diagnose(dent, [(images, adaptation)])
    logits = dent(images)

    assert actual["loss_before"] == pytest.approx(adaptation.losses[0].item(), abs=1e-12)
    assert actual["loss_before"] == pytest.approx(actual["entropy_before"])
    assert actual["loss_after"] == pytest.approx(slow_loss(logits, "entropy").item())
    assert actual["entropy_after"] < actual["entropy_before"]
    assert adaptation.sigma is not None and adaptation.affine is not None
    assert actual["sigma"] == pytest.approx(adaptation.sigma.mean().item())
    moved = (adaptation.affine - dent.start().affine).abs().mean().item()
    widths = 8 + 12  # scales and shifts are as many
    assert (actual["gamma_moved"] + actual["beta_moved"]) / 2 == pytest.approx(moved)
    assert adaptation.affine.shape[-1] == 2 * widths
    flips = (logits.argmax(1) != model(images).argmax(1)).sum().item()
    assert actual["flips"] == flips
    assert actual["classes"] == [(logits.argmax(1) == c).sum().item() for c in range(10)]
    assert json.loads(json.dumps(actual)) == actual


def test_nothing_happens_without_steps(images: Tensor) -> None:
    dent = Dent(tiny_network().double(), DentSpec(steps=0))
    actual = diagnose(dent, [(images, dent.adapt(images))])
    assert actual["loss_before"] == actual["loss_after"]
    assert actual["entropy_before"] == actual["entropy_after"]
    assert (actual["gamma_moved"], actual["beta_moved"], actual["flips"]) == (0, 0, 0)
    assert actual["sigma"] is None


def test_movement_is_told_apart(images: Tensor) -> None:
    dent = Dent(tiny_network().double(), DentSpec(mode="batch", steps=1, beta_lr=0))
    adaptation = dent.adapt(images)
    actual = diagnose(dent, [(images, adaptation)])
    assert actual["gamma_moved"] > 0
    assert actual["beta_moved"] == 0


def test_flips_count_against_the_undefended_model(images: Tensor) -> None:
    model = tiny_network().double()
    dent = Dent(model, DentSpec(mode="batch", steps=1))
    scale = torch.full_like(dent.start().affine, -1.0)  # upside down
    adaptation = Adaptation(affine=scale, losses=torch.zeros(1))
    predicted = dent.predict(images, adaptation).argmax(1)
    expected = (predicted != model(images).argmax(1)).sum().item()
    assert expected > 0
    assert diagnose(dent, [(images, adaptation)])["flips"] == expected


@pytest.mark.parametrize("blur", ["none", "static", "dynamic"])
def test_parts_of_a_separable_batch_add_up(blur: str, images: Tensor) -> None:
    spec = DentSpec(loss="entropy", blur=blur, steps=3, lr=0.05)
    dent = Dent(tiny_network().double(), spec, batch_size=len(images))
    whole = diagnose(dent, [(images, dent.adapt(images))])
    parts = diagnose(dent, [(part, dent.adapt(part)) for part in images.split(4)])
    for name, value in whole.items():
        assert parts[name] == (value if value is None else pytest.approx(value, abs=1e-12)), name
