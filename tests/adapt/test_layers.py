"""Dent beyond BatchNorm: group and layer normalization, against layers written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dentbench.adapt.dent import Dent
from dentbench.defenses.build import build
from dentbench.defenses.naming import built_in
from dentbench.errors import ModelError, SpecError
from dentbench.evaluation.input_checks import same_network
from dentbench.evaluation.input_checks.reference import Reference
from dentbench.spec.evaluation import DataSpec, DentSpec, EvalSpec, ModelSpec
from tests.adapt.networks import mixed
from tests.reference import tiny_network

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


KINDS = {
    "batchnorm": (nn.BatchNorm2d,),
    "groupnorm": (nn.GroupNorm,),
    "layernorm": (nn.LayerNorm,),
    "all": (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm),
}


def slow(images: Tensor, layers: str, steps: int, lr: float) -> nn.Module:
    """The network after entropy minimization by torch's own layers and optimizer."""
    network = mixed()
    for layer in network.modules():
        if isinstance(layer, KINDS[layers]):
            if layer.bias is None:  # dent has a shift, which begins at zero
                layer.bias = nn.Parameter(torch.zeros_like(layer.weight))
            layer.requires_grad_(True)
    chosen = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.distributions.Categorical(logits=network(images)).entropy().mean().backward()
        optimizer.step()
    return network


def spec(layers: str, mode: str, **settings: object) -> DentSpec:
    values = {"loss": "entropy", "statistics": "running", "optimizer": "sgd", "nesterov": False}
    return DentSpec(mode=mode, layers=layers, steps=2, lr=0.05, **{**values, **settings})


@pytest.mark.parametrize("layers", KINDS)
@pytest.mark.parametrize("mode", ["batch", "instance"])
def test_every_kind_adapts_as_torchs_own_layers_do(layers: str, mode: str) -> None:
    dent = Dent(mixed(), spec(layers, mode), batch_size=1 if mode == "instance" else None)
    actual = dent(IMAGES)
    if mode == "batch":
        right = slow(IMAGES, layers, 2, 0.05)(IMAGES)
    else:
        alone = [slow(image[None], layers, 2, 0.05)(image[None]) for image in IMAGES]
        right = torch.cat(alone)
    torch.testing.assert_close(actual, right.detach())
    assert not torch.allclose(actual, mixed()(IMAGES), rtol=1e-3)
    assert dent.spec.separable == (mode == "instance")


@pytest.mark.parametrize("layers", ["groupnorm", "layernorm", "all"])
@pytest.mark.parametrize("mode", ["batch", "instance"])
def test_the_unrolled_gradient_is_that_of_differences(layers: str, mode: str) -> None:
    dent = Dent(mixed(), spec(layers, mode))
    leaf = IMAGES.clone().requires_grad_()
    weights = torch.randn(4, 10, generator=torch.Generator().manual_seed(5)).double()

    def value(x: Tensor) -> Tensor:
        return (dent.predict(x, dent.unroll(x)) * weights).sum()

    (actual,) = torch.autograd.grad(value(leaf), leaf)
    (last,) = torch.autograd.grad(
        (dent.predict(leaf, dent.unroll(leaf, last=2)) * weights).sum(), leaf
    )
    torch.testing.assert_close(last, actual)
    direction = torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(6)).double()
    step = 1e-6
    ahead, behind = (value(IMAGES + sign * step * direction) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    torch.testing.assert_close((actual * direction).sum(), slope.detach(), rtol=1e-5, atol=1e-7)


def test_medians_of_the_batch_normalize_as_medbn_writes_them() -> None:
    network = tiny_network().double()
    dent = Dent(network, DentSpec(mode="batch", steps=1, lr=1e-12, statistics="median"))
    right = copy.deepcopy(network)
    for layer in right.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x, layer=layer: medbn(x, layer)  # type: ignore[method-assign]
    torch.testing.assert_close(dent(IMAGES), right(IMAGES).detach())
    named = build(built_in("medbn"), network, IMAGES)
    torch.testing.assert_close(named(IMAGES), right(IMAGES).detach())
    own = Dent(network, DentSpec(mode="instance", steps=1, lr=1e-12, statistics="median"))
    torch.testing.assert_close(own(IMAGES), right(IMAGES).detach())
    assert not dent.spec.separable and not own.spec.separable


def medbn(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    """Median normalization channel by channel: the lower of two medians."""
    channels = []
    for number in range(x.shape[1]):
        values = sorted(x[:, number].flatten().tolist())
        median = values[(len(values) - 1) // 2]
        spread = sum((value - median) ** 2 for value in values) / len(values)
        normal = (x[:, number] - median) / (spread + layer.eps) ** 0.5
        channels.append(normal * layer.weight[number] + layer.bias[number])
    return torch.stack(channels, 1)


def test_what_a_network_lacks_is_told_and_what_it_has_is_named() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 10)).double()
    with pytest.raises(ModelError, match=r"no BatchNorm2d layer.*dent --layers layernorm"):
        Dent(plain)
    with pytest.raises(ModelError, match=r"no GroupNorm layer.*dent --layers layernorm"):
        Dent(plain, DentSpec(layers="groupnorm"))
    with pytest.raises(ModelError, match=r"no BatchNorm2d, GroupNorm or LayerNorm layer.*choose a"):
        Dent(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), DentSpec(layers="all"))
    with pytest.raises(SpecError, match=r"statistics is 'batch', but layers is 'groupnorm'"):
        DentSpec(layers="groupnorm", statistics="batch")
    with pytest.raises(SpecError, match="layers"):
        DentSpec(layers="groupnorn")
    assert DentSpec(mode="batch", layers="layernorm").statistics == "running"
    assert DentSpec(mode="batch", layers="all").statistics == "batch"


@pytest.mark.parametrize(
    ("share", "who"),
    [
        (lambda a, b: setattr(b, "weight", a.weight), "layers 1 and 4 have"),
        (lambda a, b: setattr(b, "bias", a.bias), "layers 1 and 4 have"),
        (lambda a, b: setattr(b, "bias", a.weight), "layers 1 and 4 have"),
        (lambda a, b: setattr(a, "bias", a.weight), "layer 1 has"),
    ],
)
def test_parameters_that_two_have_in_common_are_refused(share: Any, who: str) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    Dent(network, DentSpec(), prepare=False)
    share(network[1], network[4])
    with pytest.raises(ModelError, match=f"^{who} one parameter for two scales or shifts"):
        Dent(network, DentSpec(), prepare=False)
    Dent(network, DentSpec(delta="none", blur="dynamic", mode="batch"), prepare=False)


class Doubled(nn.Module):
    """A parametrization, so that a parameter is computed whenever it is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_computed_parameters_are_not_taken_for_one() -> None:
    norms = [nn.BatchNorm2d(4) for _ in range(6)]
    for norm in norms:
        parametrize.register_parametrization(norm, "weight", Doubled())
        parametrize.register_parametrization(norm, "bias", Doubled())
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *norms, nn.Flatten(), nn.Linear(144, 3)).eval()
    dent = Dent(network, DentSpec(steps=1), prepare=False)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dent.predict(images, dent.start()), network(images))
    assert torch.equal(dent.adapted.initial[:4], torch.full((4,), 2.0))


def test_a_layer_that_is_called_twice_adapts_as_one() -> None:
    layer = nn.BatchNorm2d(4)
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), layer, nn.ReLU(), nn.Conv2d(4, 4, 3), layer),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    dent = Dent(network, DentSpec(steps=1), prepare=False)
    adaptation = dent.adapt(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert adaptation.affine is not None and adaptation.affine.shape == (2, 8)


def test_rows_that_are_not_the_images_are_refused_instance_wise() -> None:
    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2).reshape(-1, 3)

    class Back(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(len(x) // 64, -1)

    network = nn.Sequential(Windows(), nn.LayerNorm(3), Back(), nn.Linear(192, 10)).double()
    Dent(network, DentSpec(mode="batch", layers="layernorm", steps=1))(IMAGES)
    with pytest.raises(ModelError, match=r"layer 1 normalizes 256 rows for 4 images.*--mode batch"):
        Dent(network, DentSpec(layers="layernorm", steps=1))(IMAGES)


@pytest.mark.parametrize("layers", KINDS)
def test_the_network_of_dents_layers_is_compared_with_the_one_handed_in(layers: str) -> None:
    network = mixed()
    reference = Reference.of(network, IMAGES)
    assert reference is not None
    same_network.require_same_in_dent(reference, network, DentSpec(layers=layers))
    other = copy.deepcopy(network)
    other[-1].weight.data *= 1.5
    with pytest.raises(ModelError, match="with no step its logits"):
        same_network.require_same_in_dent(reference, other, DentSpec(layers=layers))


def test_a_key_of_batchnorm_is_that_of_before_there_was_a_choice() -> None:
    def key(defense: DentSpec) -> str:
        data = DataSpec(name="noise", sha256="", first=0, count=6)
        return EvalSpec(model=ModelSpec(name="m", sha256=""), data=data, defense=defense).key()

    assert key(DentSpec()) == BEFORE == key(DentSpec(layers="batchnorm"))
    assert len({key(DentSpec(layers=layers)) for layers in KINDS}) == 4


BEFORE = "14cb9a82d654d490"
"""The key that version 0.1 gave the released configuration on this data."""


def test_layers_without_a_forward_of_their_own_normalize_directly() -> None:
    """Not by a mode that looks at every call inside, which takes many times as long."""
    dent = Dent(mixed(), DentSpec(layers="all"))
    forwards = [layer.forward for layer in dent.network if hasattr(layer.forward, "plain")]
    assert [forward.plain for forward in forwards] == [True, True, False, True, True]
