"""Dent and every faster way of computing are the network handed in, or are refused in words."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import dentbench
from dentbench import AttackSpec, Dent, DentSpec
from dentbench.compute.bn_relu_fusion import joined_if_same
from dentbench.errors import ModelError
from dentbench.evaluation.input_checks.reference import Reference
from dentbench.evaluation.input_checks.same_network import (
    require_same_in_dent,
    require_same_network,
)
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model
from tests.reference import tiny_network

pytestmark = pytest.mark.same_network

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SPECS = [
    DentSpec(mode="instance"),
    DentSpec(mode="batch"),
    DentSpec(mode="instance", loss="entropy"),
]


class Wrapped(nn.Module):
    """A network inside a function of it and the images."""

    def __init__(self, function: Callable[..., Any], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = tiny_network() if inner is None else inner
        self.function = function
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.function(self.inner, x)
        return logits


def reference_of(network: nn.Module) -> Reference:
    reference = Reference.of(network, IMAGES)
    assert reference is not None
    return reference


def layer_of(network: nn.Module) -> nn.BatchNorm2d:
    return next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def turned(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return -nn.BatchNorm2d.forward(self, x)


def with_method() -> nn.Module:
    network = tiny_network()
    vars(layer_of(network))["forward"] = types.MethodType(turned, layer_of(network))
    return network


def with_closure() -> nn.Module:
    network = tiny_network()
    former = layer_of(network).forward
    vars(layer_of(network))["forward"] = lambda x: -former(x)
    return network


def with_partial() -> nn.Module:
    network = tiny_network()
    vars(layer_of(network))["forward"] = functools.partial(turned, layer_of(network))
    return network


class Turned(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return -super().forward(input)


def with_class() -> nn.Module:
    network = tiny_network()
    layer_of(network).__class__ = Turned
    return network


def with_hooks() -> nn.Module:
    network = tiny_network()
    layer_of(network).register_forward_hook(lambda layer, args, out: 2 * out)
    layer_of(network).register_forward_pre_hook(lambda layer, args: (args[0] + 1,))
    network.register_forward_pre_hook(lambda layer, args: (args[0].clamp(0.2, 0.8),))
    return network


def in_threads() -> nn.Module:
    def run(network: nn.Module, x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            logits: Tensor = pool.submit(network, x).result()
        return logits

    return Wrapped(run)


def by_keyword() -> nn.Module:
    def run(network: nn.Module, x: Tensor) -> Tensor:
        for layer in network.children():
            x = layer(input=x)
        return x

    return Wrapped(run)


def without_statistics() -> nn.Module:
    network = tiny_network()
    layer_of(network).running_mean = layer_of(network).running_var = None
    return network


def twice() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    layers += [nn.Conv2d(4, 4, 3, padding=1), layers[1], nn.Flatten(), nn.Linear(256, 10)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*layers).eval()


MENDED: dict[str, Callable[[], nn.Module]] = {
    "a method on the layer": with_method,
    "a closure on the layer": with_closure,
    "a partial on the layer": with_partial,
    "a class of its own": with_class,
    "hooks": with_hooks,
    "threads": in_threads,
    "arguments by name": by_keyword,
    "a layer used twice": twice,
    "a layer without statistics": without_statistics,
    "a branch on gradients": lambda: Wrapped(
        lambda inner, x: inner(x if torch.is_grad_enabled() else (x > 0.5).float())
    ),
    "a branch on inference mode": lambda: Wrapped(
        lambda inner, x: inner(x if torch.is_inference_mode_enabled() else x.round())
    ),
    "a branch on the images' gradient": lambda: Wrapped(
        lambda inner, x: inner(x if x.requires_grad else (x > 0.5).float())
    ),
    "a branch on the number of images": lambda: Wrapped(
        lambda inner, x: inner(x if len(x) > 3 else 1 - x)
    ),
    "a flow that depends on the data": lambda: Wrapped(
        lambda inner, x: inner(x) if float(x.detach().sum()) > 1e9 else inner(1 - x)
    ),
    "random numbers": lambda: Wrapped(lambda inner, x: inner(x + 0.1 * torch.rand_like(x))),
    "part without a gradient": lambda: Wrapped(lambda inner, x: inner[4:](inner[:4](x).detach())),
}


def named(network: nn.Module, x: Tensor) -> Tensor:
    """Use the tensors of the first normalization without calling it."""
    for layer in network.children():
        if layer is layer_of(network):
            bn = layer_of(network)
            stats = (bn.running_mean, bn.running_var)
            x = F.batch_norm(x, *stats, bn.weight, bn.bias, False, 0.0, bn.eps)
        else:
            x = layer(x)
    return x


def of_another_network() -> nn.Module:
    network = tiny_network()
    former = network.forward
    vars(network)["forward"] = lambda x: (
        2 * former(x)
    )  # a copy of it has the forward of this network
    return network


def crops(network: nn.Module, x: Tensor) -> Tensor:
    parts = torch.stack([x, x.roll(1, -1)], 1).flatten(0, 1)
    logits: Tensor = network(parts).unflatten(0, (len(x), 2)).mean(1)
    return logits


def in_parts(network: nn.Module, x: Tensor) -> Tensor:
    """Show the network three images at a time."""
    return torch.cat([network(part) for part in x.split(3)])


class Elsewhere(nn.Module):
    """Has the scale of a normalization in a dictionary too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_network()
        self.known = {"scale": layer_of(self.inner).weight}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) * self.known["scale"].mean()
        return logits


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "tensors of a layer": (lambda: Wrapped(named), "with other scales and shifts"),
    "another network's forward": (of_another_network, "gradient to the scales and shifts"),
    "checkpointing": (
        lambda: Wrapped(lambda inner, x: checkpoint(inner, x, use_reentrant=True)),
        "dent cannot run it .*checkpoint",
    ),
    "checkpointing that stores less": (
        lambda: Wrapped(lambda inner, x: checkpoint(inner, x, use_reentrant=False)),
        "dent cannot run it .*checkpoint|gradient",
    ),
    "a permutation of the images": (
        lambda: Wrapped(lambda inner, x: inner(x.flip(0)).flip(0)),
        "with other scales and shifts",
    ),
    "several crops of an image": (lambda: Wrapped(crops), "dent cannot run it"),
    "a batch in parts": (lambda: Wrapped(in_parts), "dent cannot run it"),
    "a sorted batch": (
        lambda: Wrapped(lambda inner, x: inner(x.flip(0)).flip(0) if len(x) > 3 else inner(x)),
        "in a whole batch, with other scales and shifts",
    ),
    "a tensor of a layer elsewhere": (Elsewhere, "with other scales and shifts"),
}
"""For instance-wise dent; some of them are no trouble batch-wise."""


@pytest.mark.parametrize("spec", SPECS, ids=["instance", "batch", "entropy"])
@pytest.mark.parametrize("name", MENDED)
def test_what_dent_computes_rightly_is_let_through(name: str, spec: DentSpec) -> None:
    network = MENDED[name]()
    if name == "a layer without statistics" and spec.statistics == "running":
        spec = replace(spec, statistics="batch")
    prepared = joined_if_same(network, IMAGES[:2])
    require_same_network(reference_of(network), prepared)
    require_same_in_dent(reference_of(network), prepared, spec)
    if name == "a layer without statistics":
        return
    with torch.no_grad():
        torch.manual_seed(0)
        ours = Dent(network, DentSpec(steps=0))(IMAGES)
        torch.manual_seed(0)
        torch.testing.assert_close(ours, network(IMAGES))


class Halved(nn.Module):
    """A network of bfloat16 for images of float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_network().bfloat16()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.bfloat16()).float()
        return logits


@pytest.mark.parametrize("mode", ["instance", "batch"])
def test_rounding_in_half_precision_is_no_other_network(mode: Any) -> None:
    network = Halved()
    require_same_in_dent(reference_of(network), network, DentSpec(mode=mode))
    assert reference_of(tiny_network()).rounding < 1e-6 < reference_of(network).rounding


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_compute_is_refused(name: str) -> None:
    make, words = REFUSED[name]
    network = make()
    with pytest.raises(ModelError, match=words):
        require_same_in_dent(reference_of(network), network, DentSpec(mode="instance"))


def test_a_patch_of_the_library_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: -original(self, x))
    network = tiny_network()
    require_same_in_dent(reference_of(network), network, DentSpec())
    torch.testing.assert_close(Dent(network, DentSpec(steps=0))(IMAGES), network(IMAGES))


def test_a_faster_network_that_is_another_is_refused() -> None:
    network, other = tiny_network(), tiny_network(seed=1)
    with pytest.raises(ModelError, match="computed as a whole"):
        require_same_network(reference_of(network), other)


def test_in_threads_the_adapted_values_count() -> None:
    alone, spec = tiny_network(), DentSpec(mode="batch", statistics="running", steps=2)
    ours, theirs = Dent(in_threads(), spec)(IMAGES), Dent(alone, spec)(IMAGES)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("traced", [True, False])
def test_the_judged_branch_is_the_network_s_own(tmp_path: Path, traced: bool) -> None:
    """A network that is coarser where no gradient is asked for, with a trace and without one."""

    def show(inner: nn.Module, x: Tensor) -> Tensor:
        shown = x if traced or float(x.detach().sum()) > -1 else 1 - x
        logits: Tensor = inner(shown if torch.is_grad_enabled() else (shown > 0.5).float())
        return logits

    inner, data = load_model("digits-nominal").network, load_dataset("digits")
    network, images, labels = Wrapped(show, inner), data.images[:64], data.labels[:64]
    with torch.no_grad():
        truth = int((network(images).argmax(1) == labels).sum())
    assert truth != int((inner(images).argmax(1) == labels).sum())
    static, dent = dentbench.evaluate(
        network,
        images,
        labels,
        attack=AttackSpec(name="none", eps=Fraction(0)),
        defense=DentSpec(steps=0),
        results=tmp_path,
        progress="none",
    )
    assert static.natural_correct == dent.natural_correct == truth


def test_a_layer_with_a_forward_of_its_own_keeps_it(tmp_path: Path) -> None:
    network = with_method()
    labels = network(IMAGES).argmax(1)
    static, dent = dentbench.evaluate(
        network,
        IMAGES,
        labels,
        attack=AttackSpec(name="none", eps=Fraction(0)),
        defense=DentSpec(steps=1, lr=1e-12),
        results=tmp_path,
        progress="none",
    )
    assert static.natural_correct == dent.natural_correct == len(labels)


def test_a_forward_of_its_own_that_leaves_chance_is_refused_or_judged_as_it_is(
    tmp_path: Path,
) -> None:
    """The digits network with a turned normalization: dent that does not move is that network."""
    network, data = load_model("digits-nominal").network, load_dataset("digits")
    layer: Any = network.bn
    vars(layer)["forward"] = types.MethodType(turned, layer)
    images, labels = data.images[0:64], data.labels[:64]
    with torch.no_grad():
        truth = int((network(images).argmax(1) == labels).sum())

    def evaluated(**more: Any) -> Any:
        attack, defense = AttackSpec(name="none", eps=Fraction(0)), DentSpec(steps=1, lr=1e-12)
        how = {"attack": attack, "defense": defense, "results": tmp_path, "progress": "none"}
        return dentbench.evaluate(network, images, labels, **how, **more)

    with pytest.raises(ModelError, match="no better than chance"):
        evaluated()
    static, dent = evaluated(force=True)
    assert static.natural_correct == dent.natural_correct == truth


def test_an_evaluation_is_refused_before_it_begins(tmp_path: Path) -> None:
    network = Wrapped(named)
    with pytest.raises(ModelError, match="dent does not compute the network handed in"):
        dentbench.evaluate(
            network, IMAGES, IMAGES.new_zeros(6).long(), results=tmp_path, progress="none"
        )
    assert not (tmp_path / "results.csv").exists()


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_computed_parameters_stay_those_of_the_network(spec: DentSpec) -> None:
    """All copies of a parametrized layer share a class, from which nothing may be taken."""
    network = tiny_network()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            parametrize.register_parametrization(layer, "weight", Doubled())
    before = network(IMAGES)
    require_same_in_dent(reference_of(network), network, spec)
    assert torch.equal(network(IMAGES), before)
    other = copy.deepcopy(network)
    next(m for m in other.modules() if isinstance(m, nn.Conv2d)).weight.data *= 1.5
    with pytest.raises(ModelError, match="with no step its logits"):
        require_same_in_dent(reference_of(network), other, spec)
