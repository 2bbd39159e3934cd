"""The cases to attack, and the result of an evaluation by every protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np

from dentbench.spec.evaluation import AttackSpec, DentSpec, EvalSpec
from dentbench.zoo.cards.model_cards import MODELS
from dentbench.zoo.models import load_model

BATCH: Final = 128


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, its data set and eps, and dent's mode."""

    model: str
    dataset: str
    eps: Fraction
    mode: str

    @property
    def name(self) -> str:
        """Its name in files and options."""
        return f"{self.model}-{self.mode}"

    @property
    def defense(self) -> DentSpec:
        """Dent as ``dentbench evaluate`` has it for this model."""
        return DentSpec(mode=self.mode, **MODELS[self.model].recommended)


CASES: Final = {
    case.name: case
    for model, dataset, eps in (
        ("digits-robust", "digits", Fraction(1, 5)),
        ("cifar10-resnet20-robust", "cifar10-sample", Fraction(8, 255)),
    )
    for mode in ("instance", "batch")
    for case in [Case(model=model, dataset=dataset, eps=eps, mode=mode)]
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What to evaluate a case on: so many images of its data set or of a file, with an attack.

    ``without``: protocols that are left out. What the worst case of the others leaves right
    contains what every protocol together leaves right, so that the long attack breaks no fewer.
    """

    images: int = BATCH
    data: str | None = None
    data_name: str | None = None
    attack: str = "standard"
    without: tuple[str, ...] = ()
    device: str = "cpu"


def prepare(case: Case, folder: Path, choice: Choice) -> Path:
    """Evaluate dent by the protocols; keep the images, the worst case and all final points."""
    from dentbench.attacks.catalogue import PROTOCOLS
    from dentbench.evaluation.context import RunOptions
    from dentbench.evaluation.inputs import RunInputs
    from dentbench.evaluation.runner import Evaluation
    from dentbench.evaluation.workers.placement import Placement
    from dentbench.spec.evaluation import BatchPlan, ModelSpec
    from dentbench.zoo.datasets import load_dataset
    from dentbench.zoo.images.arrays import slice_of

    model = load_model(case.model)
    dataset = load_dataset(choice.data or case.dataset, data_name=choice.data_name)
    count = min(choice.images, len(dataset.labels))
    x, y, data = slice_of(dataset, 0, count)
    static = EvalSpec(
        model=ModelSpec(name=model.name, sha256=model.sha256),
        data=data,
        batches=BatchPlan(size=BATCH),
        attack=AttackSpec(name=choice.attack, eps=case.eps),
    )
    spec = EvalSpec(**{**vars(static), "defense": case.defense})
    options = RunOptions(
        results=folder / "evaluation",
        placement=Placement(devices=(choice.device,)),
        save_adversarial=True,
    )
    evaluation = Evaluation(RunInputs(network=model.network, images=x, labels=y), options)
    protocols = tuple(name for name in PROTOCOLS if name not in choice.without)
    record = evaluation.run([static, spec], protocols)[1]
    stages = ["natural", *record.protocol_counts]
    outcomes = {stage: evaluation.outcomes(spec, stage) for stage in stages}
    flags = [[flag for outcome in outcomes[stage] for flag in outcome.correct] for stage in stages]
    right = np.array(flags).all(0)
    if int(right.sum()) != record.robust_correct:
        raise RuntimeError(
            f"{record.robust_correct} in the record, {int(right.sum())} by its stages"
        )
    points = [_points(evaluation, spec, stage, outcomes[stage]) for stage in stages[1:]]
    path = folder / f"{case.name}.npz"
    np.savez_compressed(
        path, images=x.numpy(), labels=y.numpy(), right=right, points=np.stack(points)
    )
    passes = json.loads(record.passes or "{}")
    facts: dict[str, Any] = {
        "data": dataset.name,
        "attack": choice.attack,
        "protocols left out": list(choice.without),
        "right under each protocol": record.protocol_counts,
        "right in the worst case per image": record.robust_correct,
    }
    if "published" in passes:
        over = sum(passes.values()) / passes["published"]
        facts["passes over those of published"] = round(over, 3)
    path.with_suffix(".json").write_text(json.dumps(facts) + "\n")
    print(case.name, facts)
    return path


def _points(evaluation: Any, spec: EvalSpec, stage: str, outcomes: list[Any]) -> Any:
    from dentbench.records.checkpoint import RunFolder

    folder = RunFolder(evaluation.options.results, spec)
    return np.concatenate([folder.load_points(stage, outcome.index) for outcome in outcomes])
