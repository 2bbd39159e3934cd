"""A network that writes into its images, or into its last answer, has the numbers of its copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench.adapt.dent import Dent
from dentbench.adapt.prefix_cache import RememberingForward
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.attacks.protocols.base import AttackContext
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.spec.evaluation import DentSpec
from tests.attacks.toys import labels_of, small_network, tiny_images
from tests.helpers import ATTACK, DENT, outcomes, spec_of

PROTOCOLS = ("published", "transfer", "warm", "batch-mates")
IMAGES = tiny_images(7).clamp(max=0.97)
"""No natural image is written into, so that a trial shows nothing."""


class Writer(nn.Module):
    """Writes into bright pixels, of which adversarial points have some."""

    def __init__(self, *, copies: bool) -> None:
        super().__init__()
        self.inner = small_network()
        self.copies = copies

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone() if self.copies else x
        x[x > 0.98] = 0.3
        logits: Tensor = self.inner(x)
        return logits


class Memory(Writer):
    """Returns the memory of its last answer, but where a gradient is wanted."""

    def __init__(self, *, copies: bool) -> None:
        super().__init__(copies=copies)
        self.memory = torch.zeros(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        if self.copies or logits.requires_grad:
            return logits
        return self.memory[: len(x)].copy_(logits)


@pytest.mark.parametrize("kind", [Writer, Memory])
def test_its_numbers_are_those_of_the_network_that_copies(
    kind: type[Writer], tmp_path: Path
) -> None:
    natural = IMAGES.clone()
    labels = labels_of(kind(copies=True), IMAGES.clone())
    for copies in (True, False):
        inputs = RunInputs(network=kind(copies=copies), images=IMAGES, labels=labels)
        options = RunOptions(results=tmp_path / str(copies), save_adversarial=True)
        Evaluation(inputs, options).run([spec_of(None), spec_of(DENT)], PROTOCOLS)
    assert torch.equal(natural, IMAGES)
    right = outcomes(tmp_path / "True")
    assert len(right) >= 3 * (1 + len(PROTOCOLS))
    assert outcomes(tmp_path / "False") == right


def test_what_is_handed_in_stays(tmp_path: Path) -> None:
    """A network, a defense and a protocol that write change nothing of anyone else's."""
    images, labels = IMAGES.numpy().copy(), labels_of(small_network(), IMAGES).numpy()
    before = images.copy(), labels.copy()
    actual = dentbench.evaluate(
        Writer(copies=False),
        images,
        labels,
        defense=Overwriting,
        attack=ATTACK,
        protocols=["published", *(f"{__name__}:{name}" for name in ("overwriting", "drawing"))],
        results=tmp_path,
        progress=None,
    )
    assert np.array_equal(images, before[0]) and np.array_equal(labels, before[1])
    counts = [count for name, count in actual.defended.protocol_counts.items() if "ing@" in name]
    assert len(counts) == 2 and counts[0] == counts[1] > 4


class Overwriting:
    """Answers as the network does, and writes over the images."""

    separable = True

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        x.detach().zero_()
        return logits


def drawing(context: AttackContext) -> Tensor:
    """Return images drawn at random, which are far from those in the context."""
    return torch.rand(context.images.shape, generator=torch.Generator().manual_seed(0))


def overwriting(context: AttackContext) -> Tensor:
    """Return the same, written over the context's own."""
    context.labels.zero_()
    return context.images.copy_(drawing(context))


def test_the_first_layer_is_still_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network's copies of the same images are the same to the memory of the first layer."""
    shown: list[Tensor] = []
    convolve = RememberingForward._convolve

    def counted(layer: RememberingForward, x: Tensor) -> Tensor:
        shown.append(x)
        return convolve(layer, x)

    monkeypatch.setattr(RememberingForward, "_convolve", counted)
    monkeypatch.setattr(torch, "equal", lambda *_: False)  # as on a GPU, where none are compared
    spec = DentSpec(mode="batch", steps=3)
    for network, times in ((small_network(), 1), (Writer(copies=False), 3)):
        shown.clear()
        Dent(CountedNetwork(network, CallCounter()), spec, prepare=False).adapt(IMAGES)
        assert len(shown) == times
