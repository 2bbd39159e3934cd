"""From a study to a loaded subject with its specs, and on to its records."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.runner import Evaluation, Progress
from dentbench.evaluation.worker import Subject
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import EvalSpec, ModelSpec
from dentbench.study.study import Study, check_names, data_default
from dentbench.zoo.arrays import slice_of
from dentbench.zoo.cards import DATASETS, ModelCard
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model
from dentbench.zoo.pictures import Pictures

_log = logging.getLogger(__name__)


def prepare(
    study: Study, options: RunOptions, progress: Progress | None = None
) -> tuple[Evaluation, list[EvalSpec]]:
    """Load a study's model and data; return what runs it and its specs.

    For each attack the static spec comes first.
    """
    check_names(study)
    fetch = options.fetch
    where: dict[str, Any] = {
        "cache": fetch.cache,
        "offline": fetch.offline,
        "mirrors": fetch.mirrors,
        "progress": fetch.progress,
    }
    resize = study.card.resize if study.card is not None else ""
    own = study.own
    model = load_model(study.model, arch=own.arch, normalize=own.normalize, **where)
    dataset = load_dataset(data_default(study), replace(study.data, resize=resize), **where)
    chosen = (dataset, study.data.first, study.data.examples)
    images, labels, data = slice_of(*chosen)
    subject = Subject(
        network=model.network,
        images=images,
        labels=labels,
        published_natural=_published_natural(study.card, data.name),
        expected_natural=own.expect_clean,
    )
    if study.data.order != "given":
        given = (subject, data)
        images, labels, data = slice_of(*chosen, order=study.data.order)
        subject = replace(subject, images=images, labels=labels, given=given)
    static = EvalSpec(
        model=ModelSpec(name=model.name, sha256=model.sha256, code=model.code),
        data=data,
        batches=study.batches,
        defense=None,
        attack=study.attacks[0],
        seed=study.seed,
        precision=study.precision,
    )
    defenses = [None, *(defense for defense in study.defenses if defense is not None)]
    settings = study.protocol_settings
    specs = [
        replace(static, attack=a, defense=d, protocols=settings)
        for a in study.attacks
        for d in defenses
    ]
    evaluation = Evaluation(subject, options, progress)
    outputs = evaluation.worker.classes
    if isinstance(dataset.images, Pictures) and dataset.classes != outputs:
        _log.warning(
            "%s has %d class folders and the model %d outputs: a missing folder moves the labels "
            "of those behind it",
            *(dataset.name, dataset.classes, outputs),
        )
    return evaluation, specs


def _published_natural(card: ModelCard | None, dataset: str) -> float | None:
    """Return the natural accuracy on a card, where it is of this very data set, else None."""
    if card is None or card.dataset not in DATASETS or DATASETS[card.dataset].name != dataset:
        return None
    return card.clean


def run_study(study: Study, options: RunOptions, progress: Progress | None = None) -> list[Record]:
    """Carry out a study, or what is left of it, and return a record per spec, in order."""
    evaluation, specs = prepare(study, options, progress)
    return evaluation.run(specs, study.protocols)
