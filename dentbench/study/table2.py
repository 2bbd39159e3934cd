"""The runs of an ablation: rows of the paper's Table 2, or a grid of settings. Torch-free."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dentbench.errors import SpecError
from dentbench.paper import ABLATION_THREATS, TABLE2
from dentbench.spec.dent import BLUR_DEFAULTS
from dentbench.spec.evaluation import DentSpec, format_eps
from dentbench.study.choices import Chosen, choose_defense
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.cards.model_cards import MODELS, ModelCard

DEFAULT_MODEL: Final = "digits-nominal"
CIFAR10_MODEL: Final = "cifar10-resnet20-nominal"
Axes = Mapping[str, Sequence[Any]]
"""The values of each setting, by the name of its DentSpec field; none where it is left out."""


def threats_of(card: ModelCard | None) -> tuple[str, ...]:
    """Return the threat models of a model's ablation: its data set's own, else the paper's."""
    own = DATASETS[card.dataset].ablation_threats if card and card.dataset in DATASETS else ()
    return own or tuple(f"{norm}:{format_eps(eps)}" for norm, eps in ABLATION_THREATS)


def default_model(dataset: str | None) -> str:
    """Return the nominal network that is ablated on a data set, if no other is named.

    ``dataset``: a name, a path, or None for the digits. A file or folder of pictures is taken for
    CIFAR-10's; a .npz file is not opened here, and taken for digits.
    """
    if dataset is None or dataset.lower().endswith(".npz"):
        return DEFAULT_MODEL
    if dataset in DATASETS and DATASETS[dataset].id == MODELS[DEFAULT_MODEL].dataset:
        return DEFAULT_MODEL
    return CIFAR10_MODEL


def is_table2(axes: Axes) -> bool:
    """Return whether the settings ask for rows of Table 2: none is given, or the blur alone."""
    return all(not values or name == "blur" for name, values in axes.items())


def choose_defenses(axes: Axes, card: ModelCard | None) -> list[Chosen]:
    """Return the defenses of an ablation: the rows of Table 2, or a grid of the settings given.

    With no setting they are Table 2's six, of which ``blur`` alone chooses some. With others it is
    every combination of the values given; a setting that is left out takes the mode's default, and
    the mode is "batch". A combination that contradicts itself is left out and noted, and refused
    when nothing else remains. Settings that a point of the grid has no use for are dropped from it,
    and points that are equal then are merged.
    """
    if is_table2(axes):
        wanted = axes.get("blur") or tuple(BLUR_DEFAULTS)
        for kind in wanted:
            DentSpec(mode="batch", blur=kind)  # refuses an unknown name
        rows = [row for row in TABLE2 if row.sigma in wanted]
        points = [
            {"mode": "batch", "delta": "affine" if row.delta else "none"}
            | {"steps": row.steps, "blur": row.sigma}
            for row in rows
        ]
    else:
        given = {name: values for name, values in axes.items() if values}
        given.setdefault("mode", ("batch",))
        combinations = itertools.product(*given.values())
        points = [
            _useful(dict(zip(given, combination, strict=True)), given)
            for combination in combinations
        ]
    return _chosen(points, card)


def _useful(point: dict[str, Any], axes: Axes) -> dict[str, Any]:
    """Return a point of a grid without the settings that it, unlike others, has no use for."""
    kinds = axes.get("blur", ())
    for name in ("sigma", "padding", "sigma_lr"):
        used_elsewhere = any(name in BLUR_DEFAULTS.get(kind, {}) for kind in kinds)
        if used_elsewhere and name not in BLUR_DEFAULTS.get(point["blur"], {}):
            point.pop(name, None)
    if point.get("steps") == 0 and len(axes["steps"]) > 1:
        kept = ("mode", "steps", "layers", "blur", "sigma", "padding")
        point = {name: value for name, value in point.items() if name in kept}
    if point.get("delta") == "none" and len(axes["delta"]) > 1:
        point = {name: value for name, value in point.items() if not _of_affine(name)}
    return point


def _of_affine(name: str) -> bool:
    return name in ("lr", "gamma_lr", "beta_lr")


def _chosen(points: Sequence[Mapping[str, Any]], card: ModelCard | None) -> list[Chosen]:
    chosen: list[Chosen] = []
    refused: list[SpecError] = []
    for point in points:
        settings = {name: value for name, value in point.items() if name != "mode"}
        try:
            defense, notes = choose_defense(point["mode"], settings, card)
        except SpecError as error:
            refused.append(error)
            continue
        if not isinstance(defense, DentSpec):
            continue  # mode static, which every ablation has
        nothing = defense.steps == 0 and defense.blur == "none"  # the static model itself
        chosen.append((None if nothing else defense, notes))
    if not chosen:
        raise refused[0] if refused else SpecError("there is nothing to ablate")
    notes = tuple(f"left out: {error}" for error in dict.fromkeys(map(str, refused)))
    return [*chosen, (None, notes)]
