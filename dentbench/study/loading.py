"""From a study to loaded inputs with their specs, and on to their records."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from typing import Any, Final

import torch
from torch import nn

from dentbench.defenses.build import identified
from dentbench.errors import DataError
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.estimates.time_forecast import TimeForecast
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.progress.events import Progress
from dentbench.evaluation.runner import Evaluation
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import DataSpec, EvalSpec, ModelSpec
from dentbench.study.parsing import require_channels
from dentbench.study.study import Study, check_names, data_default
from dentbench.zoo.cards.dataset_cards import DATASETS, DatasetCard
from dentbench.zoo.cards.model_cards import ModelCard
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.download.cached_files import is_cached
from dentbench.zoo.download.sources import FetchOptions
from dentbench.zoo.images.arrays import Dataset, slice_of
from dentbench.zoo.images.pictures import Pictures
from dentbench.zoo.models import LoadedModel, load_model, untrained_model


def prepare(
    study: Study,
    options: RunOptions,
    progress: Progress | None = None,
    *,
    untrained: bool = False,
) -> tuple[Evaluation, list[EvalSpec]]:
    """Load a study's model and data; return its evaluation and its specs.

    For each attack the static spec comes first. ``untrained``: fetch nothing: networks are
    untrained and images random, as their cards describe them, as many as were asked for or
    :data:`UNKNOWN_COUNT`; a run of them costs the same.
    """
    check_names(study)
    model = _model_of(study, options.fetch, untrained=untrained)
    dataset = _dataset_of(study, options.fetch, untrained=untrained)
    inputs, data = _inputs_of(study, model.network, dataset)
    inputs = replace(inputs, known_hard=inputs.known_hard or untrained)
    static = EvalSpec(
        model=ModelSpec(name=model.name, sha256=model.sha256, code=model.code),
        data=data,
        batches=study.batches,
        defense=None,
        attack=study.attacks[0],
        seed=study.seed,
        precision=study.precision,
    )
    large = sum(parameter.numel() for parameter in model.network.parameters()) > LARGE
    how = replace(options, source=_source(study), untimed=untrained and large)
    return Evaluation(inputs, how, progress), _specs_of(study, static, model.network)


def _sources_of(fetch: FetchOptions) -> dict[str, Any]:
    """Return the arguments of a loader that say where files come from."""
    return {
        "cache": fetch.cache,
        "offline": fetch.offline,
        "mirrors": fetch.mirrors,
        "progress": fetch.progress,
    }


def _model_of(study: Study, fetch: FetchOptions, *, untrained: bool) -> LoadedModel:
    if untrained and study.card is not None and not is_cached(study.card, fetch.folder):
        return untrained_model(study.card)
    own = study.own
    return load_model(study.model, arch=own.arch, normalize=own.normalize, **_sources_of(fetch))


def _dataset_of(study: Study, fetch: FetchOptions, *, untrained: bool) -> Dataset:
    name = data_default(study)
    resize = study.card.resize if study.card is not None else ""
    choice, sources = replace(study.data, resize=resize), _sources_of(fetch)
    if not (untrained and name in DATASETS and study.data.folder is None):
        return load_dataset(name, choice, **sources)
    card = DATASETS[name]
    absent = (DataError,) if card.source == "folder" else ()  # a user's own copy, not the cache's
    with suppress(*absent):
        if is_cached(card, fetch.folder):
            return load_dataset(name, choice, **sources)
    return random_images(card, study.data.first + (study.data.examples or UNKNOWN_COUNT))


def _inputs_of(study: Study, network: nn.Module, dataset: Dataset) -> tuple[RunInputs, DataSpec]:
    """Return the slice of a data set that a study names, in its order, with the network."""
    chosen = (dataset, study.data.first, study.data.examples)
    images, labels, data = slice_of(*chosen)
    require_channels(study.own.normalize, images.shape[1])
    inputs = RunInputs(
        network=network,
        images=images,
        labels=labels,
        published_natural=_published_natural(study.card, data.name),
        expected_natural=study.own.expect_clean,
        published_robust=None if study.card is None else study.card.autoattack,
        known_hard=study.data.corruption is not None,
        available=len(dataset) - study.data.first,
        class_folders=dataset.classes if isinstance(dataset.images, Pictures) else None,
    )
    if study.data.order == "given":
        return inputs, data
    given = (inputs, data)
    images, labels, data = slice_of(*chosen, order=study.data.order)
    return replace(inputs, images=images, labels=labels, given=given), data


def _specs_of(study: Study, static: EvalSpec, network: nn.Module) -> list[EvalSpec]:
    """Return a study's specs: for each attack the static spec, then the defended specs."""
    chosen = (defense for defense in study.defenses if defense is not None)
    defenses = [None, *(identified(defense, network) for defense in chosen)]
    settings = study.protocol_settings
    return [
        replace(static, attack=attack, defense=defense, protocols=settings)
        for attack in study.attacks
        for defense in defenses
    ]


def _source(study: Study) -> dict[str, str]:
    """Return the options, as written, that name a user's model and data."""
    own, data, options = study.own, study.data, {}
    if study.card is None:
        options["model"] = study.model
    if own.arch is not None:
        options["arch"] = own.arch
    if own.normalize is not None:
        options["normalize"] = " ".join(",".join(map(repr, part)) for part in own.normalize)
    if data.dataset is not None and data.dataset not in DATASETS:
        options["data"] = data.dataset
        options |= {"data-name": data.data_name} if data.data_name is not None else {}
    if data.folder is not None:
        options["data-dir"] = str(data.folder)
    if data.preprocess is not None:
        options["preprocess"] = data.preprocess
    return options


LARGE: Final = 2_000_000
"""Parameters from which on a dry run does not time the layouts of a network's memory."""

UNKNOWN_COUNT: Final = 10_000
"""The number of images that a data set is taken to have before it is fetched: CIFAR-10's."""


def random_images(card: DatasetCard, count: int) -> Dataset:
    """Return random images in the place of a data set's own, which share one batch's memory."""
    some = torch.rand(1, *card.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % card.classes
    images = some.expand(count, *card.shape)
    return Dataset(name=card.name, images=images, labels=labels, classes=card.classes)


def _published_natural(card: ModelCard | None, dataset: str) -> float | None:
    """Return the natural accuracy on a card, where it is of this very data set, else None."""
    if card is None or card.dataset not in DATASETS or DATASETS[card.dataset].name != dataset:
        return None
    return card.clean


def require_runnable(studies: Sequence[Study], options: RunOptions) -> None:
    """Load every study and refuse those that cannot be run; nothing is attacked or written."""
    for study in studies:
        evaluation, specs = prepare(study, options)
        evaluation.require_sound(specs, study.protocols)


def forecast(studies: Sequence[Study], options: RunOptions) -> TimeForecast:
    """Return how long studies will take together, once :func:`require_runnable` passed them."""
    parts = []
    for study in studies:
        evaluation, specs = prepare(study, options)
        evaluation.require_sound(specs, study.protocols)
        parts.append(evaluation.forecast(specs, study.protocols))
    return reduce(operator.add, parts)


def run_study(
    study: Study,
    options: RunOptions,
    progress: Progress | None = None,
    check: Callable[[Sequence[EvalSpec]], None] | None = None,
) -> list[Record]:
    """Carry out a study, or the rest of it, and return a record per spec, in order.

    ``check``: the specs must pass it before anything is run.
    """
    evaluation, specs = prepare(study, options, progress)
    if check is not None:
        check(specs)
    return evaluation.run(specs, study.protocols)
