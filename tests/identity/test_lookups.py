"""Lookups of code elsewhere count: names in texts, files, the environment, patches."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.identity.fingerprint import fingerprint
from dentbench.identity.user_code import load
from tests.helpers import forget_modules

SOURCE = """
import functools
import importlib
import os
from os import environ
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import looked_up_helper

LEVEL = 2.0
TEXT = "x * LEVEL"
HERE = os.path.dirname(__file__)
LEVELS = Path(__file__).parent / "levels.txt"


def step(x, a=1, b=2):
    return x * a - b


@functools.wraps(F.relu)
def relu(x):
    return x.clamp_min(0) * 5.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.path = str(LEVELS)

    def forward(self, x):
        return {CALL}


def make():
    torch.manual_seed(0)
    return Net().eval()
"""
HELPER = "STRENGTH = 2.0\n"

CALLS = {
    "arguments by name": "step(x, a=5)",
    "a text that is code": "eval(TEXT)",
    "a name in a text": "x * globals()['LEVEL']",
    "an attribute in a text": "x * getattr(looked_up_helper, 'STRENGTH')",
    "a module in a text": "x * importlib.import_module('looked_up_helper').STRENGTH",
    "the environment": "x * float(os.environ.get('PANEL_LEVEL', 1))",
    "the environment by a function": "x * float(os.getenv('PANEL_LEVEL') or 1)",
    "the environment, imported": "x * float(environ['PANEL_LEVEL'])",
    "a file beside the code": "x * float(np.loadtxt(Path(__file__).parent / 'levels.txt'))",
    "a file in a constant": "x * float(np.loadtxt(LEVELS))",
    "a file in a setting": "x * float(np.loadtxt(self.path))",
    "a file in a folder": "x * float(np.loadtxt(os.path.join(HERE, 'levels.txt')))",
    "a function that passes for another": "relu(x)",
}


@pytest.fixture
def identity_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return what writes a module and files beside it, and returns its network's identity."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def identity(source: str, helper: str = HELPER, levels: str = "2", folder: str = "here") -> str:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        (place / "levels.txt").write_text(levels)
        (place / "looked_up_helper.py").write_text(helper)
        (place / "looked_up_network.py").write_text(source)
        forget_modules("looked_up_")
        return fingerprint(load(f"{place}/looked_up_network.py:make")[0]())

    yield identity
    forget_modules("looked_up_")


def source_of(name: str) -> str:
    return SOURCE.replace("{CALL}", CALLS[name])


@pytest.mark.parametrize("name", CALLS)
def test_it_is_the_same_elsewhere(name: str, identity_of: Callable[..., str]) -> None:
    source = source_of(name)
    assert identity_of(source) == identity_of(source, folder="there")


@pytest.mark.parametrize("name", [name for name in CALLS if "environment" in name])
def test_a_variable_that_is_read_counts(
    name: str, identity_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, known = source_of(name), set()
    for value in ("2", "3"):
        monkeypatch.setenv("PANEL_LEVEL", value)
        known.add(identity_of(source))
    assert len(known) == 2
    monkeypatch.setenv("PANEL_OTHER", "4")
    assert identity_of(source) in known


@pytest.mark.parametrize("name", [name for name in CALLS if "file" in name])
def test_data_that_are_read_count(name: str, identity_of: Callable[..., str]) -> None:
    assert identity_of(source_of(name)) != identity_of(source_of(name), levels="3")


@pytest.mark.parametrize("name", ["an attribute in a text", "a module in a text"])
def test_a_module_that_is_named_counts(name: str, identity_of: Callable[..., str]) -> None:
    assert identity_of(source_of(name)) != identity_of(source_of(name), helper="STRENGTH = 3.0\n")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (
            "arguments by name",
            "x, a=1, b=2):\n    return x * a - b",
            "x, b=1, a=2):\n    return x * b - a",
        ),
        ("a text that is code", "LEVEL = 2.0", "LEVEL = 3.0"),
        ("a text that is code", "x * LEVEL", "x + LEVEL"),
        ("a name in a text", "LEVEL = 2.0", "LEVEL = 3.0"),
        ("a function that passes for another", "* 5.0", "* 6.0"),
    ],
)
def test_what_it_names_counts(
    name: str, old: str, new: str, identity_of: Callable[..., str]
) -> None:
    source = source_of(name)
    assert old in source
    assert identity_of(source) != identity_of(source.replace(old, new))


def patched_function(by: float) -> None:
    original = torch.relu
    F.relu = lambda x, inplace=False: original(x) * by


def patched_partial(by: float) -> None:
    original = torch.relu
    F.relu = functools.partial(lambda x, by, inplace=False: original(x) * by, by=by)


def patched_in_disguise(by: float) -> None:
    original = torch.relu

    @functools.wraps(original)
    def relu(x: Tensor, inplace: bool = False) -> Tensor:
        return original(x) * by

    F.relu = relu


def patched_tensor(by: float) -> None:
    original = torch.Tensor.clamp
    torch.Tensor.clamp = lambda self, *args: original(self, *args) * by  # type: ignore[method-assign]


def patched_python(by: float) -> None:
    original = builtins.abs
    builtins.abs = lambda x: original(x) * by  # type: ignore[assignment]


def hook_on_every_layer(by: float) -> None:
    torch.nn.modules.module.register_module_forward_hook(lambda layer, args, out: out * by)


PATCHES = (
    *(patched_function, patched_partial, patched_in_disguise, patched_tensor, patched_python),
    hook_on_every_layer,
)


@pytest.fixture
def unpatched() -> Iterator[Callable[[], None]]:
    """Return what takes all patches back, as the test ends too."""
    originals = (F.relu, torch.Tensor.clamp, builtins.abs)

    def undo() -> None:
        F.relu, torch.Tensor.clamp, builtins.abs = originals  # type: ignore[method-assign]
        torch.nn.modules.module._global_forward_hooks.clear()

    yield undo
    undo()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
def test_code_in_the_place_of_a_library_s_counts(
    patch: Callable[[float], None], unpatched: Callable[[], None]
) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    plain = fingerprint(network)
    patched = []
    for by in (2.0, 3.0, 2.0):
        patch(by)
        patched.append(fingerprint(network))
        unpatched()
    assert patched[0] == patched[2]
    assert len({plain, *patched}) == 3
    assert fingerprint(network) == plain


def with_attribute(by: float) -> nn.Module:
    layer = nn.Linear(1, 1)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    layer.weight.gain = by  # type: ignore[attr-defined]
    return layer


def test_what_a_tensor_has_beside_its_numbers_counts() -> None:
    known = with_attribute(1.0).state_dict().keys()
    for hashed in ((), known):
        first, same, other = (fingerprint(with_attribute(by), hashed) for by in (1.0, 1.0, 2.0))
        assert first == same != other


@pytest.mark.filterwarnings("ignore:.*quantize.*deprecated")
def test_how_a_tensor_is_quantized_counts() -> None:
    x = torch.ones(2, 2)
    scales = [torch.tensor([0.1, by]) for by in (0.1, 0.2)]
    zeros = torch.zeros(2, dtype=torch.long)
    kinds = [torch.quantize_per_channel(x, scale, zeros, 0, torch.qint8) for scale in scales]
    kinds += [torch.quantize_per_tensor(x, 0.1, zero, torch.qint8) for zero in (0, 1)]
    assert len({fingerprint(kind) for kind in kinds}) == 4
