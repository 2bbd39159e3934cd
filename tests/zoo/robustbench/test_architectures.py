"""Every card's architecture is built, and dent adapts it or refuses it with the reason.

On torch's meta device, where shapes are computed and nothing else: the tests show that the
network is built, converted, and adapted by one step. One card of each architecture is part of the
suite; ``pytest -m sweep`` takes every card, and those that need values on the processor (minutes).
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from dentbench.adapt.dent import Dent
from dentbench.errors import ModelError
from dentbench.spec.evaluation import DentSpec
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.cards.model_cards import MODELS, ModelCard
from dentbench.zoo.images.pictures import PREPROCESSINGS
from dentbench.zoo.models import build, load_model
from dentbench.zoo.robustbench.architectures import model_dicts

# Looked for, not imported: that takes seconds in every process that collects the tests.
pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")

CARDS = [card for card in MODELS.values() if card.source == "robustbench"]

BY_VALUES = ("Kang2021", "Bai2024", "Amini2024")
"""Networks that look at values when they are built or run: an ODE's solver, mixtures, sparsity."""

ON_GPU_ONLY = "Bai2023Improving"
"""RobustBench builds these with ``.cuda()``."""

LARGER = ("XCiT-M12", "XCiT-L12", "WideResNet-106-16", "WideResNet-94-16")
"""Architectures that are others of the suite, wider or with more of the same blocks."""


def one_of_each() -> list[ModelCard]:
    """The first card of each architecture that can be adapted on the meta device, or is small."""
    result: dict[object, ModelCard] = {}
    for card in CARDS:
        if card.architecture in LARGER:
            continue
        easy = card.batchnorm and not card.source_id.startswith((*BY_VALUES, ON_GPU_ONLY))
        if easy or (not card.batchnorm and card.parameters < 30e6):
            result.setdefault((card.architecture, card.batchnorm_layers), card)
    return list(result.values())


def built(card: ModelCard, device: str) -> torch.nn.Module:
    model_dicts()  # what is imported on the meta device would keep its constants there
    if device == "meta":
        with torch.device("meta"):
            return build(card)
    return build(card)


def adapts(card: ModelCard, device: str, images: int) -> None:
    """Convert a card's network and adapt it by one step, or see it refused."""
    dataset = DATASETS[card.dataset]
    size = (card.resize and PREPROCESSINGS[card.resize].crop) or dataset.shape[-1]
    try:
        network = built(card, device)
    except ModelError as error:
        assert card.source_id.startswith(ON_GPU_ONLY)
        assert "on a GPU only, and this machine has none" in str(error)
        return
    if not card.batchnorm:
        with pytest.raises(ModelError, match="no BatchNorm2d layer with scale and shift"):
            Dent(network, DentSpec(steps=1))
        return
    # Without values it cannot be seen that a faster way of computing it is the same.
    dent = Dent(network, DentSpec(steps=1), prepare=device != "meta")
    x = torch.rand(images, *dataset.shape[:1], size, size, device=device)
    adaptation = dent.adapt(x)
    assert adaptation.affine is not None
    assert adaptation.affine.shape == (images, card.batchnorm_parameters)
    assert dent.predict(x, adaptation).shape == (images, dataset.classes)


@pytest.mark.parametrize("card", one_of_each(), ids=lambda card: card.id)
def test_an_architecture_is_adapted_or_refused(card: ModelCard) -> None:
    adapts(card, "meta" if card.batchnorm else "cpu", 2)


def test_one_of_each_is_most() -> None:
    kinds = {(card.architecture, card.batchnorm_layers) for card in CARDS if card.batchnorm}
    seen = {(card.architecture, card.batchnorm_layers) for card in one_of_each()}
    left = kinds - seen
    assert len(kinds) > 30 and len(left) <= 7 + len(LARGER), left


def test_a_real_network_is_adapted_with_values() -> None:
    network = load_model("AutoAttackResNet18", offline=True).network
    dent = Dent(network, DentSpec(steps=1))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    adaptation = dent.adapt(x)
    assert not torch.equal(dent.predict(x, adaptation), network(x))
    assert torch.isfinite(dent.predict(x, adaptation)).all()


@pytest.mark.sweep
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_every_card_is_adapted_or_refused(card: ModelCard) -> None:
    by_values = card.source_id.startswith(BY_VALUES) or not card.batchnorm
    adapts(card, "cpu" if by_values else "meta", 1 if by_values else 2)
