"""The identity of networks and objects: what changes it, what does not, and what has none."""

from __future__ import annotations

import copy
import functools
import re
import socket
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dentbench.errors import ModelError
from dentbench.identity.fingerprint import fingerprint
from dentbench.identity.user_code import load
from dentbench.zoo.models import code_of

SOURCE = '''
import functools
import torch
import torch.nn.functional as F
from torch import nn
import user_helper

LIMIT = 0.5
TABLE = {"by name": lambda x: x * 2, "other": abs}


def shift(x):
    """Move."""
    return x + 1


class Base(nn.Module):
    level = 8

    def show(self, x):
        return shift(x)


class Wrapped(Base):
    """A wrapper."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.constant = (0.4, 0.5)
        self.settings = {"a": 1, "b": [1, 2]}
        self.register_buffer("hidden", torch.ones(3), persistent=False)
        self.register_buffer("known", torch.ones(3))
        self.after = lambda z: z * 1.5
        self.part = functools.partial(shift)

    def forward(self, x):
        # a remark
        return self.after(self.inner(user_helper.scaled(self.show(x)))) + TABLE["by name"](LIMIT)


def make():
    torch.manual_seed(0)
    temperature = 2
    network = Wrapped(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
    network.inner.register_forward_hook(lambda module, args, out: out / temperature)
    return network.eval()
'''
HELPER = "def scaled(x):\n    return x * 3\n"

OTHER = {
    "forward": ("self.show(x)", "self.show(1 - x)"),
    "class attribute": ("level = 8", "level = 7"),
    "method of a base": ("return shift(x)\n\n\nclass", "return shift(x) * 2\n\n\nclass"),
    "function of the module": ("return x + 1", "return x + 2"),
    "constant of the module": ("LIMIT = 0.5", "LIMIT = 0.6"),
    "function in a table": ("x * 2", "x * 3"),
    "attribute": ("(0.4, 0.5)", "(0.4, 0.6)"),
    "nested attribute": ("[1, 2]", "[1, 3]"),
    "buffer that is not saved": ('"hidden", torch.ones(3)', '"hidden", torch.zeros(3)'),
    "lambda": ("z * 1.5", "z * 2.5"),
    "partial": ("functools.partial(shift)", "functools.partial(shift, 1)"),
    "closure of a hook": ("temperature = 2", "temperature = 3"),
    "another layer": ("nn.ReLU()", "nn.SiLU()"),
    "setting of a layer": ("nn.BatchNorm2d(2)", "nn.BatchNorm2d(2, eps=1e-3)"),
    "order of layers": ("nn.BatchNorm2d(2), nn.ReLU()", "nn.ReLU(), nn.BatchNorm2d(2)"),
}

SAME = {
    "comment": ("# a remark", "# another remark"),
    "docstring": ('"""Move."""', '"""Move it."""'),
    "docstring of a class": ('"""A wrapper."""', '"""One."""'),
    "lines": ("LIMIT = 0.5", "\n\nLIMIT = 0.5"),
    "something unused": ("def make", "def unused():\n    return 7\n\n\ndef make"),
}


@pytest.fixture
def identity_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what writes a module with a network of a user, and returns the network's identity."""
    monkeypatch.chdir(tmp_path)

    def identify(old: str = "", new: str = "", helper: str = HELPER) -> str:
        source = SOURCE
        assert old in source
        (tmp_path / "user_network.py").write_text(source.replace(old, new, 1) if old else source)
        (tmp_path / "user_helper.py").write_text(helper)
        make, _ = load("user_network:make")
        return code_of(make())

    return identify


@pytest.mark.parametrize("kind", OTHER)
def test_another_network_has_another_identity(identity_of: Callable[..., str], kind: str) -> None:
    assert identity_of(*OTHER[kind]) != identity_of()


@pytest.mark.parametrize("kind", SAME)
def test_the_same_network_has_the_same_identity(identity_of: Callable[..., str], kind: str) -> None:
    assert identity_of(*SAME[kind]) == identity_of()


def test_a_function_of_another_file_counts(identity_of: Callable[..., str]) -> None:
    assert identity_of(helper=HELPER.replace("3", "4")) != identity_of()


def test_it_is_the_same_in_other_processes_and_folders(
    identity_of: Callable[..., str], tmp_path: Path
) -> None:
    here = identity_of()
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in ("user_network.py", "user_helper.py"):
        (other / name).write_bytes((tmp_path / name).read_bytes())
    code = (
        "from torch import nn\n"
        "for _ in range(3): nn.ReLU().register_forward_hook(print)\n"  # hooks are counted
        "from dentbench.identity.user_code import load\n"
        "from dentbench.zoo.models import code_of\n"
        "print(code_of(load('user_network:make')[0]()))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=other,
        env={"PYTHONPATH": root, "PYTHONHASHSEED": "7", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == here


class Settings:
    """Attributes of a network beside tensors."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Slotted:
    __slots__ = ("level",)

    def __init__(self, level: int) -> None:
        self.level = level


def turned(self: nn.Module, x: Tensor) -> Tensor:
    return -x


def turned_further(self: nn.Module, x: Tensor) -> Tensor:
    return -2 * x


def holding(value: Any) -> nn.Module:
    network = nn.Sequential(nn.ReLU())
    network.value = value
    return network


def with_forward(function: Callable[..., Any]) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    network[1].forward = types.MethodType(function, network[1])
    return network


def with_buffer(value: float) -> nn.Module:
    network = nn.Sequential(nn.ReLU())
    network.register_buffer("extra", torch.tensor(value), persistent=False)
    return network


def with_hook(function: Callable[..., Any]) -> nn.Module:
    network = nn.Sequential(nn.ReLU())
    network[0].register_forward_hook(lambda module, args, out: function(module, out))
    return network


def scripted(by: float) -> nn.Module:
    network = nn.Sequential(nn.ReLU(), nn.Threshold(by, 0.0))
    return torch.jit.trace(network, torch.rand(1, 3))  # type: ignore[no-any-return]


def traced(by: float) -> nn.Module:
    class Times(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * by

    return torch.fx.symbolic_trace(Times())


PAIRS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "a set": (lambda names: holding(set(names)), ("a", "b", "c"), ("a", "b")),
    "an object": (lambda by: holding(Settings(by=Settings(inner=by))), 1, 2),
    "slots": (lambda by: holding(Slotted(by)), 1, 2),
    "a path": (lambda by: holding(Path(by)), "a", "b"),
    "a generator of numbers": (lambda by: holding(torch.Generator().manual_seed(by)), 1, 2),
    "an array": (lambda by: holding(torch.full((2,), by).numpy()), 1, 2),
    "a type": (lambda by: holding(by), nn.ReLU, nn.SiLU),
    "a method": (lambda by: holding(Settings(by=by).__eq__), 1, 2),
    "a cached function": (lambda by: holding(functools.lru_cache(lambda: by)), 1, 2),
    "a number and a flag": (holding, 1, True),
    "a lock": (lambda by: holding([threading.Lock(), by]), 1, 2),
    "forward of a layer": (with_forward, turned, turned_further),
    "TorchScript": (scripted, 0.5, 0.6),
    "a graph": (traced, 2.0, 3.0),
    "a buffer that is not saved": (with_buffer, 1.0, 2.0),
    "an extra forward hook": (with_hook, turned, turned_further),
    "a pattern": (lambda by: holding(re.compile(by)), "a", "b"),
    "a compiled function": (lambda by: holding(torch.compile(lambda x: x * by)), 2, 3),
    "a function of a library around one": (lambda by: torch.no_grad()(lambda x: x * by), 2, 3),
    "a function": (lambda by: lambda x: x * by, 2, 3),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(  # torch takes seconds to load its compiler
    "kind",
    [pytest.param(kind, marks=[pytest.mark.sweep] if "compiled" in kind else []) for kind in PAIRS],
)
def test_values_of_many_kinds(kind: str) -> None:
    make, first, other = PAIRS[kind]

    def identity(by: Any) -> str:
        torch.manual_seed(0)
        return fingerprint(make(by))

    assert identity(first) == identity(first) != identity(other)


def test_weights_have_a_hash_of_their_own() -> None:
    first, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    nn.init.zeros_(other.weight)
    assert code_of(first) == code_of(other)
    assert fingerprint(first) != fingerprint(other)


class Averaged(nn.Module):
    """A network whose state dict holds other weights than it computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        return {name: torch.zeros_like(value) for name, value in state.items()}


class Hooked(nn.Module):
    """The same, by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self._register_state_dict_hook(
            lambda _, state, *__: {name: 0 * value for name, value in state.items()}
        )


@pytest.mark.parametrize("kind", [Averaged, Hooked])
def test_weights_that_the_state_dict_hides_count(kind: type[Any]) -> None:
    networks = [kind() for _ in range(2)]
    for network, value in zip(networks, (2.0, 3.0), strict=True):
        nn.init.constant_(network.layer.weight, value)
        nn.init.zeros_(network.layer.bias)
    assert len({code_of(network) for network in networks}) == 2
    assert code_of(networks[0]) == code_of(copy.deepcopy(networks[0]))


SETTINGS = threading.local()


class OfThread(nn.Module):
    """A network that reads what its thread was told."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(SETTINGS.level)


def test_what_a_thread_was_told_counts() -> None:
    actual = set()
    for level in (2.0, 3.0, 2.0):
        SETTINGS.level = level
        actual.add(code_of(OfThread()))
    assert len(actual) == 2


def test_a_layer_used_twice_is_not_two_layers() -> None:
    layer, same = nn.Linear(2, 2), nn.Linear(2, 2)
    same.load_state_dict(layer.state_dict())
    assert fingerprint(nn.Sequential(layer, layer)) != fingerprint(nn.Sequential(layer, same))


def test_a_patched_library_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.BatchNorm2d(2))
    before = fingerprint(network)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", turned)
    assert fingerprint(network) != before
    monkeypatch.undo()
    assert fingerprint(network) == before


def test_a_class_is_the_same_after_it_was_copied() -> None:
    """Copying keeps names in a class: a second run in a process is of the same defense."""

    class Own:
        def __init__(self) -> None:
            self.held = 1

    before = fingerprint(Own)
    copy.deepcopy(Own())
    assert "__slotnames__" in vars(Own) and fingerprint(Own) == before


def test_cycles_end() -> None:
    network = holding(Settings(by=1))
    vars(network)["value"].network = network
    vars(network)["itself"] = [network.value]
    assert fingerprint(network) == fingerprint(network)


class Level:
    """A value that can be held weakly."""

    def __init__(self, number: float) -> None:
        self.number = number


@pytest.mark.parametrize(
    "held",
    [
        lambda level: weakref.WeakValueDictionary({"a": level}),
        lambda level: weakref.WeakKeyDictionary({level: 1}),
        lambda level: weakref.WeakKeyDictionary({Level: level.number}),
        lambda level: weakref.WeakSet([level]),
    ],
)
def test_what_is_held_weakly_counts(held: Callable[[Level], Any]) -> None:
    levels = [Level(2.0), Level(2.0), Level(3.0)]
    first, same, other = (fingerprint(held(level)) for level in levels)
    assert first == same != other


class Faceless:
    """Refuses to say even its class, as parts of an .npz file do."""

    def __getattribute__(self, name: str) -> Any:
        raise AttributeError(name)


def test_an_object_without_attributes_is_refused_in_words() -> None:
    with pytest.raises(ModelError, match=r"part is a .*Faceless"):
        fingerprint(types.SimpleNamespace(part=Faceless()))


def test_what_cannot_be_written_down_is_refused_in_words() -> None:
    with socket.socket() as connection, pytest.raises(ModelError, match=r"value\.by.*socket"):
        fingerprint(holding(Settings(by=connection)))


class Computing(nn.Module):
    """A network, or an object, that computes a value when it is first asked for it."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    @functools.cached_property
    def scale(self) -> Tensor:
        return torch.full((2,), self.level)

    @functools.cached_property
    def itself(self) -> list[Any]:
        return [self, self.scale]


class ComputingObject:
    def __init__(self, level: float) -> None:
        self.level = level

    @functools.cached_property
    def scale(self) -> Tensor:
        return torch.full((2,), self.level)

    @functools.cached_property
    def without_a_writing(self) -> socket.socket:
        return socket.socket()


@pytest.mark.parametrize("kind", [Computing, ComputingObject])
def test_a_computed_property_counts_by_what_it_is_computed_of(kind: type[Any]) -> None:
    unread, read, other, changed = kind(1.0), kind(1.0), kind(2.0), kind(1.0)
    for name in ("scale", "itself", "without_a_writing"):
        getattr(read, name, None)
    assert len(vars(read)) >= len(vars(unread)) + 2
    assert fingerprint(read) == fingerprint(unread) != fingerprint(other)
    changed.__dict__["scale"] = torch.zeros(2)
    assert fingerprint(changed) != fingerprint(unread), "put there by hand"
    if kind is ComputingObject:
        read.without_a_writing.close()
