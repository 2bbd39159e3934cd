"""A user's adaptation must stay what it is while the defense adapts to other images."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench.defenses.build import build
from dentbench.defenses.user_defined import spec_of_object
from dentbench.errors import ModelError
from dentbench.spec.evaluation import AttackSpec
from tests.attacks.toys import labels_of, small_network, tiny_images


class New:
    """Subtracts the mean image of the batch, which every call returns anew."""

    separable = False

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.state: dict[str, Tensor] = {}
        self.buffer = torch.zeros(3, 5, 5)

    def adapt(self, x: Tensor) -> Any:
        return {"mean": x.detach().mean(0)}

    def predict(self, x: Tensor, adaptation: Any) -> Tensor:
        logits: Tensor = self.network(x - 0.3 * adaptation["mean"])
        return logits


class Copied(New):
    """Keeps its state, and returns a copy of it."""

    def adapt(self, x: Tensor) -> Any:
        self.state.update(super().adapt(x))
        return copy.deepcopy(self.state)


class Same(New):
    """Returns one object."""

    def adapt(self, x: Tensor) -> Any:
        self.state.update(super().adapt(x))
        return self.state


class SameMemory(New):
    """Returns new objects around one memory."""

    def adapt(self, x: Tensor) -> Any:
        return {"mean": self.buffer.copy_(x.detach().mean(0)).view(3, 5, 5)}


class InItself(SameMemory):
    """Returns nothing, and keeps the adaptation in itself."""

    def adapt(self, x: Tensor) -> Any:
        super().adapt(x)

    def predict(self, x: Tensor, adaptation: Any) -> Tensor:
        return super().predict(x, {"mean": self.buffer})


class InItsClass(New):
    """Keeps it in its class, which a copy of it shares."""

    kept: ClassVar[dict[str, Tensor]] = {}

    def adapt(self, x: Tensor) -> Any:
        self.kept.update(super().adapt(x))
        return self.kept


class ByUnroll(New):
    """Lets its unroll write into what adapt returned."""

    def adapt(self, x: Tensor) -> Any:
        self.state = super().adapt(x)
        return self.state

    def unroll(self, x: Tensor) -> Any:
        self.state.update(super().adapt(x))
        return {"mean": x.mean(0)}


class Random(New):
    """Draws an adaptation, and an answer."""

    def adapt(self, x: Tensor) -> Any:
        return {"mean": x.detach().mean(0) + 0.1 * torch.randn(3, 5, 5)}

    def predict(self, x: Tensor, adaptation: Any) -> Tensor:
        return super().predict(x + 0.1 * torch.randn_like(x), adaptation)


class RandomByItself(Random):
    """Draws from numbers of its own, which nothing can set back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.generator = torch.Generator().manual_seed(0)

    def predict(self, x: Tensor, adaptation: Any) -> Tensor:
        noise = torch.randn(x.shape, generator=self.generator)
        return New.predict(self, x + 0.1 * noise, adaptation)


class Choosy(New):
    """Adapts to no image that is darker than natural ones are."""

    def adapt(self, x: Tensor) -> Any:
        if not torch.equal(x, tiny_images(8)[: len(x)]):
            raise ValueError("no such image")
        return super().adapt(x)


@pytest.mark.parametrize("kind", [New, Copied, Random, RandomByItself, Choosy])
def test_adaptations_that_stay_are_taken(kind: type[New]) -> None:
    network, images = small_network(), tiny_images(8)
    build(spec_of_object(kind), network, images[:2], {spec_of_object(kind): kind})


@pytest.mark.parametrize("kind", [Same, SameMemory, InItself, InItsClass, ByUnroll])
def test_adaptations_that_later_ones_change_are_refused(kind: type[New], tmp_path: Path) -> None:
    network, images = small_network(), tiny_images(8)
    attack = AttackSpec(name="apgd-ce", eps=Fraction(1, 50), iterations=1)
    with pytest.raises(ModelError, match=r"changes an adaptation .* return a new object"):
        dentbench.evaluate(
            network,
            images,
            labels_of(network, images),
            defense=kind,
            attack=attack,
            results=tmp_path,
            progress=None,
        )
