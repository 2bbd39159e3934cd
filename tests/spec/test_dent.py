"""The spec of dent: defaults, canonical writings, and every refusal."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from dentbench.adapt.dent import Dent
from dentbench.errors import SpecError
from dentbench.records.outcome import column_names
from dentbench.spec.dent import BLUR_DEFAULTS, LOSSES, OPTIMIZERS, PADDINGS
from dentbench.spec.evaluation import DentSpec, field_names
from tests.reference import tiny_network


def test_the_defaults_are_the_released_configuration() -> None:
    spec = DentSpec()
    assert (spec.mode, spec.steps, spec.loss, spec.statistics) == ("instance", 6, "shot", "running")
    assert (spec.optimizer, spec.lr, spec.gamma_lr, spec.beta_lr) == ("adamod", 6e-3, None, None)
    assert (spec.beta1, spec.beta2, spec.beta3) == (0.99, 0.999, 0.6)
    assert (spec.delta, spec.blur, spec.sigma) == ("affine", "none", None)
    assert DentSpec(mode="batch").steps == 30


def test_every_field_is_a_column_of_the_results() -> None:
    assert set(field_names(DentSpec)) <= set(column_names())


def test_settings_that_a_blur_does_not_have_are_none() -> None:
    static = DentSpec(blur="static")
    assert (static.sigma, static.padding, static.sigma_lr) == (0.6, "zeros", None)
    dynamic = DentSpec(blur="dynamic", sigma=2)
    assert (dynamic.sigma, dynamic.padding, dynamic.sigma_lr) == (2.0, "zeros", 0.1)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({"steps": 0}, {"steps": 0, "delta": "none"}),
        ({"delta": "none"}, {"steps": 0}),
        ({"statistics": "mix:0.50"}, {"statistics": "mix:.5"}),
        ({"statistics": "mix:0"}, {"statistics": "running"}),
        ({"statistics": "mix:1.0"}, {"statistics": "batch"}),
        ({"gamma_lr": 6e-3}, {}),
        ({"blur": "dynamic", "sigma": 1}, {"blur": "dynamic"}),
        ({"blur": "dynamic"}, {"blur": "dynamic", "sigma_lr": 0.1, "padding": "zeros"}),
    ],
)
def test_equal_settings_are_equal_specs(first: dict[str, Any], other: dict[str, Any]) -> None:
    assert DentSpec(**first) == DentSpec(**other)
    assert repr(DentSpec(**first)) == repr(DentSpec(**other))


@pytest.mark.parametrize(
    ("settings", "separable"),
    [
        ({}, False),
        ({"loss": "entropy"}, True),
        ({"loss": "entropy", "blur": "static"}, True),
        ({"loss": "entropy", "blur": "dynamic"}, True),
        ({"loss": "entropy", "blur": "dynamic", "delta": "none"}, True),
        ({"loss": "entropy", "statistics": "mix:0"}, True),
        ({"loss": "entropy", "statistics": "mix:0.01"}, False),
        ({"mode": "batch", "loss": "entropy", "statistics": "running"}, False),
        ({"mode": "batch", "statistics": "running", "blur": "dynamic", "delta": "none"}, False),
        ({"mode": "batch", "steps": 0}, True),
        ({"mode": "batch", "steps": 0, "blur": "static"}, True),
    ],
)
def test_separable(settings: dict[str, Any], separable: bool) -> None:
    assert DentSpec(**settings).separable is separable


@pytest.mark.parametrize(
    ("bad", "culprit"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"optimizer": "sgd", "lr": 0}, "lr is 0; it must be a finite number, greater than 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"gamma_lr": -0.1}, "gamma_lr is -0.1"),
        ({"beta_lr": float("inf")}, "beta_lr is inf"),
        ({"gamma_lr": 0, "beta_lr": 0}, "choose delta none"),
        ({"loss": "softmax_entropy"}, "allowed: shot, entropy"),
        ({"mode": "static"}, "mode is 'static'"),
        ({"statistics": "online"}, "allowed: running, batch, median, mix:ALPHA"),
        ({"statistics": 0.5}, "statistics is 0.5"),
        ({"statistics": "mix"}, "a number from 0 to 1"),
        ({"statistics": "mix:"}, "a number from 0 to 1"),
        ({"statistics": "mix:x"}, "a number from 0 to 1"),
        ({"statistics": "mix:2"}, "'mix:2'.*a number from 0 to 1"),
        ({"statistics": "mix:-0.1"}, "a number from 0 to 1"),
        ({"statistics": "mix:nan"}, "a number from 0 to 1"),
        ({"optimizer": "lion"}, "optimizer is 'lion'"),
        ({"beta1": 1.0}, "beta1 is 1.0"),
        ({"blur": "gaussian"}, "allowed: none, static, dynamic"),
        ({"blur": "static", "sigma": -0.5}, "sigma is -0.5; it must be a finite number, at least"),
        ({"blur": "static", "sigma": float("inf")}, "sigma is inf"),
        ({"blur": "dynamic", "sigma": 0.0}, "sigma is 0.0; .*greater than 0"),
        ({"blur": "static", "padding": "wrap"}, "allowed: zeros, reflect, replicate"),
        ({"blur": "dynamic", "sigma_lr": -1.0}, "sigma_lr is -1.0"),
        ({"blur": "dynamic", "sigma_lr": 0.0}, "sigma_lr is 0.0"),
        ({"blur": "dynamic", "steps": 0}, "choose blur static or at least 1 step"),
        ({"sigma": 1.0}, "choose blur static or dynamic"),
        ({"padding": "reflect"}, "blur is 'none', which has no padding"),
        ({"blur": "static", "sigma_lr": 0.1}, "leave it out or choose blur dynamic"),
        ({"delta": "gamma"}, "allowed: affine, affine-after:N, none"),
        ({"delta": "affine:3"}, "allowed: affine, affine-after:N, none"),
        *(
            ({"blur": "dynamic", "delta": f"affine-after{end}"}, "such as affine-after:3")
            for end in ("", ":", ":0", ":03", ":x", ":-1", ":1.5", ":N")
        ),
        ({"delta": "affine-after:3"}, "blur is 'none', which has no sigma that moves alone"),
        ({"delta": "affine-after:3", "blur": "static"}, "choose delta affine or blur dynamic"),
        ({"delta": "affine-after:6", "blur": "dynamic"}, "steps is 6, so scales and shifts would"),
        ({"delta": "none", "steps": 6}, "nothing would adapt in 6 steps"),
        ({"delta": "none", "steps": 6, "blur": "static"}, "nothing would adapt in 6 steps"),
        ({"delta": "none", "blur": "dynamic", "lr": 0.1}, "give sigma_lr for sigma"),
        ({"delta": "none", "blur": "dynamic", "beta_lr": 0.1}, "beta_lr is given"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad: dict[str, Any], culprit: str) -> None:
    with pytest.raises(SpecError, match=culprit):
        DentSpec(**bad)


@pytest.mark.parametrize(
    ("steps", "delta"),
    [
        (1, "affine"),
        (2, "affine-after:1"),
        (3, "affine-after:1"),
        (5, "affine-after:2"),
        (12, "affine-after:6"),
    ],
)
def test_other_numbers_of_steps_keep_the_share_in_which_sigma_moves_alone(
    steps: int, delta: str
) -> None:
    spec = DentSpec(blur="dynamic", delta="affine-after:3", steps=6)
    assert spec.with_steps(steps) == DentSpec(blur="dynamic", delta=delta, steps=steps)
    assert spec.with_larger_steps(steps).delta == delta
    assert spec.with_larger_steps(steps).lr == pytest.approx(0.006 * 6 / steps)


def test_every_combination_runs_or_is_refused() -> None:
    """All switches crossed: a spec that is accepted survives copying, and dent runs it."""
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model = tiny_network()
    switches = {
        "mode": ("batch", "instance"),
        "steps": (None, 0, 1),
        "delta": ("affine", "none"),
        "blur": tuple(BLUR_DEFAULTS),
        "padding": (None, *PADDINGS),
        "statistics": ("running", "batch", "mix:0.5"),
    }
    refused = 0
    for number, values in enumerate(itertools.product(*switches.values())):
        settings = {k: v for k, v in zip(switches, values, strict=True) if v is not None}
        settings["loss"] = [*LOSSES][number % len(LOSSES)]
        settings["optimizer"] = OPTIMIZERS[number % len(OPTIMIZERS)]
        try:
            spec = DentSpec(**settings)
        except SpecError:
            refused += 1
            continue
        assert replace(spec) == spec
        if number % 7 == 0:  # one in seven, for the time it takes: every pair of values is met
            spec = replace(spec, steps=min(spec.steps, 2))
            assert torch.isfinite(Dent(model, spec)(images)).all(), settings
    # Without a blur: 18 with a padding, 1 whose step has nothing to adapt. Static: 4 such steps.
    # Dynamic: 8 without a step. All in 2 modes and 3 statistics.
    assert refused == (18 + 1 + 4 + 8) * 2 * 3
