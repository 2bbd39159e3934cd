"""Attack contexts for the tests of the protocols: toy defenses with known truth, and real dent."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dentbench.adapt.dent import Dent
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import ThreatModel, judge
from dentbench.attacks.protocols.base import AttackContext, load_protocol
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.spec.evaluation import (
    AttackSpec,
    BatchPlan,
    DataSpec,
    DentSpec,
    EvalSpec,
    ModelSpec,
    ProtocolSpec,
)
from tests.attacks.toys import labels_of, small_network, tiny_images

SEPARABLE = DentSpec(mode="instance", loss="entropy", steps=2, lr=0.05)
COUPLED = DentSpec(mode="instance", loss="shot", steps=2, lr=0.05)
BATCHWISE = DentSpec(mode="batch", steps=2, lr=0.05)


def spec_of(
    images: int,
    defense: DentSpec = SEPARABLE,
    *,
    norm: str = "Linf",
    eps: Fraction = Fraction(1, 50),
    iterations: int = 10,
    targets: int = 2,
    batch: int = 8,
    attack: str = "quick",
    seed: int = 0,
    queries: int | None = None,
    **protocols: Any,
) -> EvalSpec:
    return EvalSpec(
        model=ModelSpec(name="toy", sha256="0" * 64),
        data=DataSpec(name="toy", sha256="1" * 64, first=0, count=images),
        batches=BatchPlan(size=batch),
        defense=defense,
        attack=AttackSpec(
            name=attack, norm=norm, eps=eps, iterations=iterations, targets=targets, queries=queries
        ),
        protocols=ProtocolSpec(**protocols),
        seed=seed,
    )


def evaluation_of(
    spec: EvalSpec, results: Path, seed: int = 0, *, classes: int = 5, keep: bool = False
) -> Evaluation:
    """A small network whose defense is right on every image, and the runner for it."""
    network = small_network(classes, seed)
    images = tiny_images(spec.data.count, seed)
    assert isinstance(spec.defense, DentSpec)
    size = spec.batches.size
    dent = Dent(network, spec.defense, batch_size=size if spec.separable else None)
    labels = torch.cat([labels_of(dent, batch) for batch in images.split(size)])
    subject = RunInputs(network=network, images=images, labels=labels)
    return Evaluation(subject, RunOptions(results=results, save_adversarial=keep))


def flags_of(evaluation: Evaluation, spec: EvalSpec, stage: str) -> list[bool]:
    return [flag for outcome in evaluation.outcomes(spec, stage) for flag in outcome.correct]


def context_of(
    defense: Any, network: nn.Module, x: Tensor, y: Tensor, spec: EvalSpec, **more: Any
) -> AttackContext:
    """A context for a defense that no spec describes; cold unless ``more`` says otherwise."""
    return AttackContext(
        spec=spec,
        unit=0,
        images=x,
        labels=y,
        natural=judge(defense, x, y),
        classes=network(x[:1]).shape[1],
        defense=defense,
        network=network,
        **more,
    )


def robust_under(stage: str, context: AttackContext) -> int:
    """How many images are right at a protocol's projected points, judged afresh."""
    result = run(stage, context)
    threat = ThreatModel.of(context.spec.attack)
    assert threat.contains(result.points, context.images).all()
    points = threat.project(result.points, context.images)
    return int(judge(context.defense, points, context.labels).sum())


def run(stage: str, context: AttackContext) -> AttackResult:
    return load_protocol(stage)(context)


class Linear(nn.Module):
    """Two classes; the logit of class 0 is w . (x - 0.5), that of class 1 is 0."""

    def __init__(self, shape: tuple[int, ...] = (3, 5, 5)) -> None:
        super().__init__()
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(5))
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        score = ((x - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


class Stale(Linear):
    """It moves after the attacker: what it answers is the network's answer to the letter, but with
    the adaptation held constant the gradient points the wrong way."""

    def adapt(self, x: Tensor) -> Tensor:
        return self.unroll(x).detach()

    def unroll(self, x: Tensor) -> Tensor:
        return Linear.forward(self, x)

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        return 2 * adaptation - Linear.forward(self, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x, self.adapt(x))


class Quantized(nn.Module):
    """The network on rounded images: no gradient at all, and no robustness either."""

    def __init__(self, network: nn.Module, levels: int = 64) -> None:
        super().__init__()
        self.network = network
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x * self.levels).round() / self.levels)
        return logits
