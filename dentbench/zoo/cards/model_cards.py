"""Model cards: the facts of every model that can be named. Torch-free.

RobustBench's rows are in ``robustbench.json`` (written by ``dentbench.zoo.robustbench.collect``),
the embedded models' facts in the JSON files beside their weights.
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

ASSETS: Final = Path(__file__).parents[1] / "assets"
"""The folder of the embedded models, data and denoisers."""

ROBUSTBENCH_INPUT: Final = "images in [0, 1]; the network has the normalization that it needs"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model: its source, its network, its published accuracies.

    ``source`` is "embedded", "pyautoattack" or "robustbench"; ``weights`` names its files there:
    ``gdrive:ID`` or URLs, one per checkpoint file. ``eps`` is exact ("8/255"). Accuracies are
    percentages: ``clean`` and ``autoattack`` as published for the whole test set (embedded models:
    as we measured them, see ``details``), ``external`` a lower value by others.
    ``batchnorm_layers`` counts BatchNorm2d modules, used or not. ``resize``: how pictures of
    ImageNet are resized, a name of :data:`dentbench.zoo.images.pictures.PREPROCESSINGS`.
    ``recommended`` holds DentSpec fields that suit the model better than the defaults.
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
    resize: str = ""
    recommended: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    weights: tuple[str, ...] = ()
    source_id: str = ""
    details: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def batchnorm(self) -> bool:
        """Whether it has BatchNorm2d layers, which dent adapts."""
        return self.batchnorm_layers > 0


MODELS: Final[Registry[ModelCard]] = Registry(
    "model", has_code=True, listed_by="dentbench fetch --list"
)


def _embedded() -> list[ModelCard]:
    """Return the embedded models: a JSON card lies beside the weights of each."""
    cards = []
    for path in sorted(ASSETS.glob("*.json")):
        if not path.with_suffix(".safetensors").exists():
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))
        names = ModelCard.__dataclass_fields__.keys() & facts.keys()
        given = {name: facts[name] for name in names if name != "recommended"}
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
    """Return the suffix that tells a row from the CIFAR-10 Linf model of its RobustBench id."""
    parts = (
        "" if row["dataset"] == "cifar10" else f"-{row['dataset']}",
        "" if row["threat_model"] == "Linf" else f"-{row['threat_model']}",
    )
    return "".join(parts)


def _short(row: Mapping[str, Any]) -> str:
    """``AuthorYear`` of a RobustBench id, or "" where it has none."""
    match = re.match(r"[A-Za-z]+\d{4}", row["id"])
    return match[0] if match else ""


def _timm_resize(row: Mapping[str, Any]) -> str:
    """Return the preprocessing of an XCiT, which RobustBench takes from timm unnamed."""
    return "BicubicRes224Crop224" if row["dataset"] == "imagenet" else ""


def _robustbench() -> list[ModelCard]:
    """A card for each row; aliases: RobustBench's folder path, the bare id, AuthorYear.

    CIFAR-10 Linf models keep RobustBench's id as their name; others get a suffix. The bare id and
    AuthorYear become aliases where they mean one model only.
    """
    rows = json.loads(Path(__file__).with_name("robustbench.json").read_text(encoding="utf-8"))
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
        resize = row["preprocessing"] or _timm_resize(row)
        facts |= {"weights": tuple(row["weights"]), "norm": row["threat_model"]}
        cards.append(
            ModelCard(
                id=name,
                aliases=tuple(aliases),
                source="robustbench",
                source_id=row["id"],
                resize=resize,
                preprocessing=f"{resize}, then " * bool(resize) + ROBUSTBENCH_INPUT,
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
