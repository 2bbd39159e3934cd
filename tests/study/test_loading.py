"""What a dry run loads: data that are there, random images in the place of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentbench.errors import DataError
from dentbench.study import loading
from dentbench.study.study import Request, make_studies
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.cards.model_cards import MODELS
from dentbench.zoo.data_choice import DataChoice
from dentbench.zoo.download.sources import FetchOptions


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "digits"])
def test_a_dry_run_needs_no_images(tmp_path: Path, name: str) -> None:
    model = next(card.id for card in MODELS.values() if card.dataset == name)
    request = Request(models=[model], data=DataChoice(first=2, examples=3))
    (study,) = make_studies(request, lambda _: [(None, ())])
    where = FetchOptions(cache=tmp_path, offline=True)
    data = loading._dataset_of(study, where, untrained=True)
    card = DATASETS[name]
    assert len(data) == (card.count if name == "digits" else 5)
    assert data.images[0:1].shape == (1, *card.shape) and data.classes == card.classes


def test_a_dry_run_refuses_what_the_run_would(tmp_path: Path) -> None:
    request = Request(models=["digits-robust"], data=DataChoice(preprocess="Crop288"))
    (study,) = make_studies(request, lambda _: [(None, ())])
    with pytest.raises(DataError, match="--preprocess is for pictures"):
        loading._dataset_of(study, FetchOptions(cache=tmp_path), untrained=True)
