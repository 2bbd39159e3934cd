"""The layout in memory: the same answers, timed once, remembered."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dentbench import Dent, DentSpec
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.views import BatchView
from dentbench.compute import memory_format
from dentbench.compute.backend import Engine
from dentbench.compute.memory_format import FILE, is_channels_last_faster
from tests.compute.networks import network

CPU = torch.device("cpu")
IMAGES = torch.rand(5, 3, 6, 6)


def prepared(model: nn.Module, images: torch.Tensor = IMAGES) -> nn.Module:
    """Return a network as it is made ready where nothing can be remembered."""
    return Engine.chosen(model, CPU, images).prepare(model, CPU, images)


def is_channels_last(model: nn.Module) -> bool:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize("spec", [None, DentSpec(), DentSpec(mode="batch", blur="dynamic")])
def test_channels_last_gives_the_same_logits_and_gradients(spec: DentSpec | None) -> None:
    plain = network().requires_grad_(False)
    x = torch.rand(5, 3, 6, 6)
    fast = prepared(copy.deepcopy(plain), x)
    assert is_channels_last(fast)
    answers = []
    for model in (plain, fast):
        ask = model if spec is None else Dent(model, spec)
        given = x.clone().requires_grad_()
        logits = ask(given)
        answers.append((logits, *torch.autograd.grad(logits.square().sum(), given)))
    for got, expected in zip(*answers, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_flattens_with_view_keeps_its_layout() -> None:
    model = prepared(network(lambda x: x.view(len(x), -1)))
    assert not is_channels_last(model)
    assert model(torch.rand(3, 3, 6, 6)).shape == (3, 10)


def test_a_network_without_convolutions_is_only_moved() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model = prepared(linear, torch.rand(1, 3, 2, 2))
    assert model is linear
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_attack_gets_a_contiguous_gradient_of_any_layout() -> None:
    model = network().requires_grad_(False)[:2]
    fast = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fast = fast.to(memory_format=torch.channels_last)
    x = torch.rand(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    threat = ThreatModel(norm="Linf", eps=0.1)
    view = BatchView(fast, x, torch.zeros(4, dtype=torch.long), threat, whole=True)
    given = x.contiguous().requires_grad_()
    (gradient,) = torch.autograd.grad(view(given).sum(), given)
    assert gradient.is_contiguous()


def times(monkeypatch: pytest.MonkeyPatch, plain: float, laid_out: float) -> list[None]:
    """Let timing find these seconds; return what grows by one whenever it is done."""
    done: list[None] = []

    def timed(*_: object) -> tuple[float, float]:
        done.append(None)
        return plain, laid_out

    monkeypatch.setattr(memory_format, "_timed", timed)
    return done


@pytest.mark.parametrize(
    ("plain", "laid_out", "faster"),
    [(1.0, 0.8, True), (1.0, 1.0, True), (1.0, 1.1, True), (1.0, 1.2, False)],
)
def test_what_is_clearly_faster_is_chosen_and_remembered(
    plain: float, laid_out: float, faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = times(monkeypatch, plain, laid_out)
    model = network()
    assert is_channels_last_faster(model, CPU, IMAGES, tmp_path) is faster
    times(monkeypatch, laid_out, plain)  # it would be another one now
    assert is_channels_last_faster(copy.deepcopy(model), CPU, IMAGES, tmp_path) is faster
    assert len(done) == (1 if faster else memory_format.TIMES)
    assert list(json.loads((tmp_path / FILE).read_text()).values()) == [faster]
    assert (
        is_channels_last(
            Engine.chosen(model, CPU, IMAGES, cache=tmp_path).prepare(model, CPU, IMAGES)
        )
        is faster
    )


def test_the_layout_that_is_not_the_rules_is_found_several_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actual = iter([(1.0, 2.0), (1.0, 2.0), (1.0, 1.0)])
    monkeypatch.setattr(memory_format, "_timed", lambda *_: next(actual))
    assert is_channels_last_faster(network(), CPU, IMAGES, tmp_path)


def test_another_network_or_number_of_threads_is_timed_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = times(monkeypatch, 1, 2)
    model = network()
    model[3] = nn.Conv2d(16, 8, 3, padding=1, bias=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for item in (network(), model):
        assert not is_channels_last_faster(item, CPU, IMAGES, tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert not is_channels_last_faster(model, CPU, IMAGES, tmp_path)
    assert len(done) == memory_format.TIMES * len(json.loads((tmp_path / FILE).read_text())) == 9


def test_other_instructions_of_the_cpu_are_timed_for_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = times(monkeypatch, 1.0, 0.5)
    for capability in ("AVX2", "AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        assert is_channels_last_faster(network(), CPU, torch.rand(2, 3, 6, 6), tmp_path)
    assert len(json.loads((tmp_path / FILE).read_text())) == 2
    assert done


def test_timing_is_real_and_leaves_the_network_alone(tmp_path: Path) -> None:
    model = network()
    before = torch.random.get_rng_state()
    faster = is_channels_last_faster(model, CPU, IMAGES, tmp_path)
    assert json.loads((tmp_path / FILE).read_text()).popitem()[1] is faster
    assert torch.equal(before, torch.random.get_rng_state())
    assert not is_channels_last(model)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "no JSON"])
def test_a_damaged_memory_is_begun_anew(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, 1, 2)
    (tmp_path / FILE).write_text(text)
    assert not is_channels_last_faster(network(), CPU, IMAGES, tmp_path)
    assert list(json.loads((tmp_path / FILE).read_text()).values()) == [False]


def test_where_nothing_can_be_remembered_nothing_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = times(monkeypatch, 1, 2)
    (tmp_path / "file").touch()
    for cache in (None, tmp_path / "file" / "cache"):
        assert is_channels_last_faster(network(), CPU, IMAGES, cache)
    assert not done
