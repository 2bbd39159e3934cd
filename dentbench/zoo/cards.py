"""Model and data set cards: what is known of everything that can be named. Torch-free.

RobustBench's rows are in ``card_data/robustbench.json`` (written by ``dentbench.zoo.collect``), the
embedded models' facts in the JSON files beside their weights.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from dentbench.registry import Registry

HERE: Final = Path(__file__).parent
ASSETS: Final = HERE / "assets"
DEFAULT_MODEL: Final = "digits-robust"
DEFAULT_DATASET: Final = "digits"

ROBUSTBENCH_INPUT: Final = "images in [0, 1]; what normalization it needs is in the network"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model: where it comes from, what it is, what was published of it.

    ``source`` is "embedded", "pyautoattack" or "robustbench"; ``weights`` names its files there:
    ``gdrive:ID`` or URLs, one per checkpoint file. ``eps`` is exact ("8/255"). Accuracies are
    percentages: ``clean`` and ``autoattack`` as published for the whole test set (embedded models:
    as we measured them, see ``details``), ``external`` a lower one by others. ``batchnorm_layers``
    counts BatchNorm2d modules, used or not. ``recommended`` holds DentSpec fields that suit the
    model better than the defaults.
    """

    id: str
    aliases: tuple[str, ...] = ()
    source: str
    dataset: str
    norm: str
    threat_model: str
    eps: str
    architecture: str
    batchnorm_layers: int
    batchnorm_parameters: int
    parameters: int
    clean: float | None = None
    autoattack: float | None = None
    external: float | None = None
    paper: str = ""
    url: str = ""
    license: str
    preprocessing: str = ROBUSTBENCH_INPUT
    recommended: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    weights: tuple[str, ...] = ()
    source_id: str = ""
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def batchnorm(self) -> bool:
        """Whether it has BatchNorm2d layers, which dent adapts."""
        return self.batchnorm_layers > 0


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """A data set: its honest display name, the shape (C, H, W) of an image, its threat model.

    ``source`` is "embedded", "download" or the name of the installed package that has its files.
    ``ablation_threats``: NORM:EPS of an ablation of nominal models, where those of the paper's
    Table 2 (Linf:1.5/255 and L2:0.2, for CIFAR-10) would say little.
    """

    id: str
    aliases: tuple[str, ...] = ()
    name: str
    shape: tuple[int, int, int]
    classes: int
    norm: str
    eps: str
    license: str
    source: str
    url: str = ""
    archive_url: str = ""
    archive_md5: str = ""
    file: str = ""
    file_md5: str = ""
    label_key: str = ""
    ablation_threats: tuple[str, ...] = ()


DATASETS: Final[Registry[DatasetCard]] = Registry("data set")
MODELS: Final[Registry[ModelCard]] = Registry("model")

_CIFAR = "not stated; made for research"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"

for _card in (
    DatasetCard(
        id="digits",
        aliases=("uci-digits", "optdigits"),
        name="UCI digits (test)",
        shape=(1, 8, 8),
        classes=10,
        norm="Linf",
        eps="0.15",
        license="CC-BY-4.0",
        source="embedded",
        url="https://doi.org/10.24432/C50P49",
        # They leave digits-nominal 9 and 12 of 128 images right under PGD of 20 steps: about what
        # the paper's leave its nominal model (8.8% and 9.2%).
        ablation_threats=("Linf:0.15", "L2:0.7"),
    ),
    DatasetCard(
        id="cifar10",
        aliases=("cifar-10",),
        name="CIFAR-10 (test)",
        shape=(3, 32, 32),
        classes=10,
        norm="Linf",
        eps="8/255",
        license=_CIFAR,
        source="download",
        url=_CIFAR_URL + "cifar.html",
        archive_url=_CIFAR_URL + "cifar-10-python.tar.gz",
        archive_md5="c58f30108f718f92721af3b95e74349a",
        file="cifar-10-batches-py/test_batch",
        file_md5="40351d587109b95175f43aff81a1287e",
        label_key="labels",
    ),
    DatasetCard(
        id="cifar10-sample",
        aliases=("cifar-10-sample",),
        name="CIFAR-10 (first 20 test images)",
        shape=(3, 32, 32),
        classes=10,
        norm="Linf",
        eps="8/255",
        license=_CIFAR,
        source="foolbox",
        url=_CIFAR_URL + "cifar.html",
    ),
    DatasetCard(
        id="cifar100",
        aliases=("cifar-100",),
        name="CIFAR-100 (test)",
        shape=(3, 32, 32),
        classes=100,
        norm="Linf",
        eps="8/255",
        license=_CIFAR,
        source="download",
        url=_CIFAR_URL + "cifar.html",
        archive_url=_CIFAR_URL + "cifar-100-python.tar.gz",
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        file="cifar-100-python/test",
        file_md5="f0ef6b0ae62326f3e7ffdfab6717acfc",
        label_key="fine_labels",
    ),
):
    DATASETS.add(_card.id, _card, _card.aliases)


def _embedded() -> list[ModelCard]:
    """The embedded models: a JSON card stands beside each one's weights."""
    cards = []
    for path in sorted(ASSETS.glob("*.json")):
        if not path.with_suffix(".safetensors").exists():
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))
        known = ModelCard.__dataclass_fields__.keys() & facts.keys()
        given = {name: facts[name] for name in known if name != "recommended"}
        cards.append(
            ModelCard(
                **given,
                source="embedded",
                recommended=MappingProxyType(facts.get("recommended", {})),
                details=MappingProxyType(facts),
            )
        )
    return cards


AUTOATTACK_RESNET18: Final = ModelCard(
    id="AutoAttackResNet18",
    aliases=("aa-resnet18",),
    source="pyautoattack",
    dataset="cifar10",
    norm="Linf",
    threat_model="Linf",
    eps="1.5/255",
    architecture="ResNet-18",
    batchnorm_layers=20,
    batchnorm_parameters=9600,
    parameters=11_173_962,
    paper="AutoAttack's example of a nominally (not adversarially) trained network",
    url="https://github.com/fra31/auto-attack",
    license="MIT",
    preprocessing="images in [0, 1], not normalized",
)

# Names that RobustBench's ids leave ambiguous, resolved as in dent's released README.
_CHOSEN: Final = {"Wu2020": "Wu2020Adversarial_extra"}


def _suffix(row: Mapping[str, Any]) -> str:
    """What tells a row's name from the CIFAR-10 Linf model of the same RobustBench id."""
    parts = (
        "" if row["dataset"] == "cifar10" else f"-{row['dataset']}",
        "" if row["threat_model"] == "Linf" else f"-{row['threat_model']}",
    )
    return "".join(parts)


def _short(row: Mapping[str, Any]) -> str:
    """``AuthorYear`` of a RobustBench id, or "" where it has none."""
    match = re.match(r"[A-Za-z]+\d{4}", row["id"])
    return match[0] if match else ""


def _robustbench() -> list[ModelCard]:
    """A card for each row; aliases: RobustBench's folder path, the bare id, AuthorYear.

    CIFAR-10 Linf models keep RobustBench's id as their name; others get a suffix. The bare id and
    AuthorYear become aliases where they mean one model only.
    """
    rows = json.loads((HERE / "card_data" / "robustbench.json").read_text(encoding="utf-8"))
    ids = Counter(row["id"].lower() for row in rows)
    shorts = Counter((_short(row) + _suffix(row)).lower() for row in rows)
    bare = Counter(_short(row).lower() for row in rows)
    cards = []
    for row in rows:
        suffix, short = _suffix(row), _short(row)
        name = row["id"] + suffix
        candidates = [f"{row['dataset']}/{row['threat_model']}/{row['id']}"]
        if suffix and ids[row["id"].lower()] == 1:
            candidates.append(row["id"])
        if short and shorts[(short + suffix).lower()] == 1:
            candidates.append(short + suffix)
        if short and suffix and bare[short.lower()] == 1:
            candidates.append(short)
        candidates += [alias for alias, chosen in _CHOSEN.items() if chosen == name]
        aliases = dict.fromkeys(alias for alias in candidates if alias.lower() != name.lower())
        facts = {key: value for key, value in row.items() if key not in ("id", "preprocessing")}
        resize = f"{row['preprocessing']}, then " if row["preprocessing"] else ""
        facts |= {"weights": tuple(row["weights"]), "norm": row["threat_model"]}
        cards.append(
            ModelCard(
                id=name,
                aliases=tuple(aliases),
                source="robustbench",
                source_id=row["id"],
                preprocessing=resize + ROBUSTBENCH_INPUT,
                **facts,
            )
        )
    return cards


for _model in (*_embedded(), AUTOATTACK_RESNET18, *_robustbench()):
    MODELS.add(_model.id, _model, _model.aliases)

# The models of the paper's tables and of the released README.
PAPER_MODELS: Final = (
    "Carmon2019Unlabeled",
    "Ding2020MMA",
    "Wu2020Adversarial_extra",
    "Sehwag2020Hydra",
    "Wang2020Improving",
    "Hendrycks2019Using",
    "Wong2020Fast",
)
PAPER_DATASETS: Final = ("cifar10",)
