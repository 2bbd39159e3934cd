"""Cards: names are unique, facts are whole, and nothing heavy is imported for them."""

import json
import subprocess
import sys

import pytest

from dentbench.errors import UnknownNameError
from dentbench.spec.evaluation import NORMS, parse_eps
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.cards.model_cards import ASSETS, MODELS, PAPER_DATASETS, PAPER_MODELS, ModelCard

ROWS = json.loads((ASSETS.parent / "cards" / "robustbench.json").read_text(encoding="utf-8"))

# Natural accuracy and AutoAttack as the released README of dent lists them, in percent.
README = {
    "Wu2020Adversarial_extra": (88.25, 60.04),
    "Carmon2019Unlabeled": (89.69, 59.53),
    "Sehwag2020Hydra": (88.98, 57.14),
    "Wang2020Improving": (87.50, 56.29),
    "Hendrycks2019Using": (87.11, 54.92),
    "Wong2020Fast": (83.34, 43.21),
    "Ding2020MMA": (84.36, 41.44),
}


def test_every_name_and_alias_means_one_card() -> None:
    for registry in (MODELS, DATASETS):
        names = [name.lower() for card in registry.values() for name in (card.id, *card.aliases)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Carmon2019", "Carmon2019Unlabeled"),
        ("ding2020", "Ding2020MMA"),
        ("Wu2020", "Wu2020Adversarial_extra"),
        ("Sehwag2020", "Sehwag2020Hydra"),
        ("Wang2020", "Wang2020Improving"),
        ("Hendrycks2019", "Hendrycks2019Using"),
        ("Wong2020", "Wong2020Fast"),
        ("standard", "Standard"),
        ("cifar10/L2/Ding2020MMA", "Ding2020MMA-L2"),
        ("Rony2019", "Rony2019Decoupling-L2"),
        ("Salman2020Do_R18", "Salman2020Do_R18-imagenet"),
    ],
)
def test_aliases_resolve(alias: str, name: str) -> None:
    assert MODELS.canonical(alias) == name


def test_an_unknown_name_suggests() -> None:
    with pytest.raises(UnknownNameError, match="Carmon2019Unlabeled"):
        MODELS["Carmon2019Unlabelled"]


def test_every_robustbench_row_has_a_card() -> None:
    actual = {(card.dataset, card.threat_model, card.source_id) for card in MODELS.values()}
    assert {(row["dataset"], row["threat_model"], row["id"]) for row in ROWS} <= actual
    assert sum(row["dataset"] == "cifar10" and row["threat_model"] == "Linf" for row in ROWS) == 76
    assert sum(row["dataset"] == "cifar10" and row["threat_model"] == "L2" for row in ROWS) == 21


@pytest.mark.parametrize("card", MODELS.values(), ids=lambda card: card.id)
def test_a_card_is_whole(card: ModelCard) -> None:
    assert card.norm in NORMS
    assert parse_eps(card.eps) > 0
    assert card.dataset in DATASETS or card.dataset == "imagenet"
    assert card.license and card.architecture
    assert 0 <= card.batchnorm_parameters < card.parameters
    assert card.batchnorm == (card.batchnorm_layers > 0) == (card.batchnorm_parameters > 0)
    assert card.source in ("embedded", "pyautoattack", "robustbench")
    if card.source == "robustbench":
        assert card.weights and all(
            source.startswith(("gdrive:", "https://")) for source in card.weights
        )
        assert card.clean is not None and 0 <= (card.autoattack or 0) < card.clean <= 100


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_published_numbers_are_those_of_the_released_readme(name: str) -> None:
    assert (MODELS[name].clean, MODELS[name].autoattack) == README[name]
    assert MODELS[name].batchnorm


def test_the_papers_data_is_known() -> None:
    assert all(name in DATASETS for name in PAPER_DATASETS)


def test_licenses_that_are_not_free_are_told() -> None:
    assert "NC" in MODELS["Ding2020"].license
    assert "NC" in MODELS["Ding2020-L2"].license
    assert MODELS["Rebuffi2021Fixing_R18_ddpm"].license == "Apache-2.0"


def test_cards_load_nothing_heavy() -> None:
    code = (
        "import sys, dentbench.zoo.cards.model_cards, dentbench.zoo.download.sources\n"
        "heavy = {'torch', 'robustbench', 'pandas', 'numpy', 'timm', 'gdown', 'requests'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
