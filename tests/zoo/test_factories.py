"""Networks of a user's callable: what identifies their code, and in which mode they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dentbench
from dentbench.errors import ModelError
from dentbench.zoo.models import load_model
from dentbench.zoo.modes import evaluated, in_training_mode
from tests.helpers import forget_modules

SOURCE = '''"""A module."""
import os
import random
import tempfile
import time
import uuid

import torch
from torch import nn


class Net(nn.Module):
    """A network."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.level = float(os.environ.get("FACTORY_LEVEL", "1"))
        self.name = {NAME}

    def forward(self, x):
        # a remark
        return self.layer(x) * self.level


def make():
    return Net().eval()
'''


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return what writes a module with a network, and returns the identity of its code."""

    def written(name: str = "'net'", old: str = "", new: str = "") -> str:
        source = SOURCE.replace("{NAME}", name)
        assert old in source
        (tmp_path / "factory_network.py").write_text(source.replace(old, new) if old else source)
        forget_modules("factory_")
        return load_model(f"{tmp_path}/factory_network.py:make").code

    yield written
    forget_modules("factory_")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a remark", "# another"),
        ('"""A network."""', '"""One."""'),
        ('"""A module."""', '"""One."""\n\n'),
        ("self.layer(x) * self.level", "(self.layer(x)  *  self.level)"),
    ],
)
def test_remarks_and_layout_say_nothing(code: Callable[..., str], old: str, new: str) -> None:
    assert code("'net'", old, new) == code()


def test_what_the_code_does_counts(code: Callable[..., str]) -> None:
    assert code("'net'", "* self.level", "+ self.level") != code()


UNSTEADY = (
    "str(time.time_ns())",
    "uuid.uuid4().hex",
    "tempfile.mkdtemp()",
    "[f'run {time.perf_counter_ns()}']",
    "f'{os.getpid()} {object()} {time.perf_counter_ns()}'",
)


@pytest.mark.parametrize("name", UNSTEADY)
def test_names_that_are_others_each_time_say_nothing(
    code: Callable[..., str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = code(name)
    assert code(name) == first
    monkeypatch.setenv("FACTORY_LEVEL", "2")
    assert code(name) != first, "its other settings count"


def test_a_number_drawn_anew_each_time_counts(code: Callable[..., str]) -> None:
    """The answers of such a network are others too."""
    assert code("random.random()") != code("random.random()")
    assert code("str(torch.rand(1))") != code("str(torch.rand(1))")


class Own(nn.Module):
    """A layer of a user with two modes."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Kept(nn.Module):
    """A network that keeps a layer in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def train(self, mode: bool = True) -> Kept:
        super().train(mode)
        self.norm.train()
        return self


def with_layer(layer: nn.Module) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), layer).eval()
    layer.train()
    return network


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.5), nn.BatchNorm1d(2), Own(), nn.InstanceNorm1d(2, track_running_stats=True)],
)
def test_a_layer_left_in_training_mode_is_refused_in_words(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match=rf"layer 1 \({type(layer).__name__}\).*model.eval\(\)"):
        evaluated(with_layer(layer))


class Held:
    """A defense that is no module, but has one."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.number = network, 1


def test_layers_in_training_mode_are_named() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), nn.ReLU())
    assert in_training_mode(network) == "0 (Dropout) and 1 more"
    assert in_training_mode(Held(network)) == "network.0 (Dropout) and 1 more"
    for nothing in (network.eval(), Held(network), nn.ReLU(), len, 3):
        assert in_training_mode(nothing) == ""


ALIKE: tuple[Any, ...] = (
    *(nn.Linear(2, 2), nn.ReLU(), nn.Dropout(0.0), nn.InstanceNorm1d(2)),
    nn.BatchNorm1d(2, track_running_stats=False),
)


@pytest.mark.parametrize("layer", ALIKE)
def test_a_layer_that_has_no_modes_may_be_in_any(layer: nn.Module) -> None:
    network = evaluated(with_layer(layer))
    assert not any(module.training for module in network.modules())


def test_a_network_in_training_mode_as_a_whole_is_put_into_eval_mode() -> None:
    network = evaluated(nn.Sequential(nn.Dropout(0.5)).train())
    assert torch.equal(network(torch.ones(3)), torch.ones(3))


def test_a_layer_left_so_inside_a_part_in_eval_mode_is_refused_in_words() -> None:
    """A wrapper around a network is in training mode, as every new module is."""
    with pytest.raises(ModelError, match=r"layer 1\.1 \(Dropout\)"):
        evaluated(nn.Sequential(nn.Identity(), with_layer(nn.Dropout(0.5))))


def test_a_part_in_eval_mode_of_a_network_in_training_mode_is_no_exception() -> None:
    frozen = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)).eval())
    assert not any(layer.training for layer in evaluated(frozen).modules())


def test_a_network_that_keeps_a_layer_in_training_mode_is_left_so() -> None:
    network = evaluated(Kept().eval())
    assert network.get_submodule("norm").training


def test_it_is_refused_by_the_command_and_from_python(tmp_path: Path) -> None:
    (tmp_path / "factory_modes.py").write_text(
        "from torch import nn\n\n\ndef make():\n    network = nn.Sequential(nn.Dropout()).eval()\n"
        "    network[0].train()\n    return network\n"
    )
    with pytest.raises(ModelError, match="in eval mode but for its layer 0"):
        load_model(f"{tmp_path}/factory_modes.py:make")
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ModelError, match="in eval mode but for its layer 1"):
        dentbench.evaluate(with_layer(nn.Dropout()), images, torch.tensor([0, 1]), results=tmp_path)
    forget_modules("factory_")
