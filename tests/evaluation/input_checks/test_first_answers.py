"""A fault of a network or a defense is reported in a sentence, before the first attack."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dentbench.adapt.dent import Dent
from dentbench.errors import ModelError
from dentbench.evaluation.input_checks.first_answers import require_defense, require_network
from dentbench.spec.evaluation import DentSpec
from dentbench.zoo.weights import weights_sha256

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def layers(channels: int = 3, classes: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    parts = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*parts, nn.Linear(144, classes)).eval()


class Does(nn.Module):
    """A network that answers by a function of small layers and the images."""

    def __init__(self, function: Callable[[nn.Sequential, Tensor], Any]) -> None:
        super().__init__()
        self.layers = layers()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layers, x)


def without_gradients(n: nn.Sequential, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    return n(x)  # type: ignore[no-any-return]


def raises(n: nn.Sequential, x: Tensor) -> Tensor:
    raise KeyError("layer4\nand more")


class Unnamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.values = (torch.ones(1, requires_grad=True) * 2,)


class Exported(nn.Linear):
    """As torch.export makes it: it has no modes."""

    def __init__(self) -> None:
        super().__init__(2, 5)

    def eval(self) -> Any:
        raise NotImplementedError("Calling eval() is not supported yet.")


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "tuple": (lambda: Does(lambda n, x: (n(x), x)), "with a tuple of Tensor, Tensor"),
    "dict": (lambda: Does(lambda n, x: {"logits": n(x)}), "with a dict with logits"),
    "list": (lambda: Does(lambda n, x: [n(x)]), "with a list of Tensor"),
    "none": (lambda: Does(lambda n, x: None), "with a NoneType"),
    "numpy": (lambda: Does(lambda n, x: n(x).detach().numpy()), "with a ndarray"),
    "classes": (lambda: Does(lambda n, x: n(x).argmax(1)), r"has the shape \(2,\)"),
    "spatial": (lambda: Does(lambda n, x: n(x)[:, :, None]), r"has the shape \(2, 5, 1\)"),
    "flat": (lambda: Does(lambda n, x: n(x).flatten()), r"has the shape \(10,\)"),
    "squeezed": (lambda: Does(lambda n, x: n(x).squeeze()), r"1 image .* has the shape \(5,\)"),
    "a batch of two": (lambda: Does(lambda n, x: n(x).view(2, 5)), "any number of images"),
    "a batch of four": (lambda: Does(lambda n, x: n(x).view(4, 5)), "any number of images"),
    "one output": (lambda: layers(classes=1), "has 1 class;"),
    "complex": (lambda: Does(lambda n, x: n(x).to(torch.complex64)), "complex64"),
    "nan": (lambda: Does(lambda n, x: n(x) * float("nan")), "NaN logits"),
    "in place": (lambda: Does(lambda n, x: n(x.sub_(0.5))), "changes the images"),
    "channels": (lambda: layers(channels=1), "another number of channels"),
    "size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3, 5)), "another size"),
    "half": (lambda: layers().half(), r"float16 .* call .float\(\)"),
    "double": (lambda: layers().double(), r"float64 .* call .float\(\)"),
    "no gradients": (lambda: Does(without_gradients), "leaves them so"),
    "raises": (lambda: Does(raises), "does not take 2 images"),
    "generator": (lambda: Does((i for i in range(3)).__next__), "cannot be copied"),  # type: ignore
    "no leaf": (Unnamed, "cannot be copied"),
    "exported": (Exported, "hand in the module that it was exported from"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_is_refused_in_one_sentence(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(ModelError, match=words) as caught:
        require_network(make(), IMAGES)
    assert "\n" not in str(caught.value) and torch.is_grad_enabled()


@pytest.mark.parametrize(
    "function",
    [
        lambda n, x: n(x),
        lambda n, x: n(x).log_softmax(1),
        lambda n, x: n(x.detach()),
        lambda n, x: n(x).double(),
        lambda n, x: n(x).half(),
        lambda n, x: (100 * n(x)).long(),
        lambda n, x: F.one_hot(n(x).argmax(1), 5),
        lambda n, x: n(x + torch.rand_like(x)),
        lambda n, x: n(x) if random.random() < 2 else None,
    ],
)
def test_what_attacks_can_use_is_left_as_it_is(function: Callable[..., Any]) -> None:
    network = Does(function)
    torch.manual_seed(3)
    before, weights = torch.get_rng_state(), weights_sha256(network)
    images = IMAGES.clone()
    require_network(network, images)
    assert torch.equal(before, torch.get_rng_state()) and torch.equal(images, IMAGES)
    assert weights_sha256(network) == weights and network.training


def test_modes_that_return_nothing_or_are_kept() -> None:
    class Quiet(Does):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)

    require_network(Quiet(lambda n, x: n(x)), IMAGES)


DENT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no_grad": (lambda: Does(torch.no_grad()(lambda n, x: n(x))), "no gradient in what it adapts"),
    "one-hot": (lambda: Does(lambda n, x: F.one_hot(n(x).argmax(1), 5).float()), "no gradient"),
    "whole numbers": (lambda: Does(lambda n, x: (9 * n(x)).long()), "no gradient"),
    "reentrant": (
        lambda: Does(lambda n, x: n[4:](checkpoint(n[:4], x, use_reentrant=True))),
        "checkpointing",
    ),
    "checkpoint": (
        lambda: Does(lambda n, x: n[4:](checkpoint(n[:4], x, use_reentrant=False))),
        "checkpoint",
    ),
    "functional": (
        lambda: Does(
            lambda n, x: n[3:](
                F.batch_norm(
                    n[0](x),
                    n[1].running_mean,
                    n[1].running_var,
                    n[1].weight,
                    n[1].bias,  # type: ignore
                )
            )
        ),
        "no gradient in what it adapts",
    ),
    "crops": (
        lambda: Does(lambda n, x: n(torch.cat([x, x])).view(2, -1, 5).mean(0)),
        "keep its batch whole",
    ),
    "image by image": (
        lambda: Does(lambda n, x: torch.cat([n(image[None]) for image in x])),
        "keep its batch whole",
    ),
    "group norm": (lambda: nn.Sequential(nn.GroupNorm(1, 3), layers()[3]), "--layers groupnorm"),
    "layer norm": (lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(192)), "--layers layernorm"),
    "none": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), "no BatchNorm2d layer"),
    "no scales": (lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False)), "scale and shift"),
    "scripted": (lambda: torch.jit.script(layers()), "is a ScriptModule"),
}


@pytest.mark.parametrize("name", DENT)
@pytest.mark.filterwarnings("ignore")
def test_dent_says_what_it_cannot_and_what_can_be_run_instead(name: str) -> None:
    make, words = DENT[name]
    network = make()
    with pytest.raises(ModelError, match=words) as caught:
        require_defense("dent", lambda: Dent(network, DentSpec(steps=1)), IMAGES, 5)
    assert "\n" not in str(caught.value) and "--mode static" in str(caught.value)
    assert "CountedNetwork" not in str(caught.value)


@pytest.mark.parametrize("where", ["lazy", "meta"])
def test_tensors_without_values_are_named(where: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(5) if where == "lazy" else nn.Linear(2, 5))
    if where == "meta":
        network = network.to("meta")
    with pytest.raises(ModelError, match=f"1.weight .*{where}"):
        weights_sha256(network)


def test_extra_state_counts(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        level = 1

        def get_extra_state(self) -> dict[str, Any]:
            return {"level": self.level, "list": [1, 2]}

        def set_extra_state(self, state: Any) -> None:
            self.level = state["level"]

    torch.manual_seed(0)
    network = Extra(2, 3)
    before = weights_sha256(network)
    assert weights_sha256(network) == before
    network.level = 2
    assert weights_sha256(network) != before
