"""Planted defenses that read their batch mates, and what normalizes or adapts by the batch.

Most are planted around a linear model, whose robust accuracy has a closed form: an image is
robust in Linf where its margin over every class exceeds eps times the L1 norm of the difference
of the two classes' weights. That bounds every attack from above, image by image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.checks import failed
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.records.outcome import NATURAL, Record
from dentbench.report.verdict import Verdict, verdict
from dentbench.spec.dent import DentSpec
from dentbench.spec.evaluation import (
    AttackSpec,
    BatchPlan,
    DataSpec,
    DefenseSpec,
    EvalSpec,
    ModelSpec,
    ProtocolSpec,
)
from tests.panel.subjects import (
    CLASSES,
    COUNT,
    EPS,
    Linear,
    digits,
    planted,
    projected,
    smooth,
)

pytestmark = [pytest.mark.new_processes, pytest.mark.checks]
whole = pytest.mark.whole_checks

QUICK = AttackSpec(name="quick", eps=EPS, iterations=10)
SHORT = ProtocolSpec(rounds=2, queries=60, fractions=(0.05,))
COMPOSED = ("published", "transfer", "warm", "batch-mates")
"""The protocol of other batches, and those that it starts from."""

NOT_BETTER = ("no gain", "weaker than static")


def closed_form(model: Linear) -> Tensor:
    """Which images (N,) the model is robust on."""
    _, images, labels = planted()
    return model.robust(images, labels, float(EPS)).detach()


def evaluated(
    results: Path,
    defense: Any,
    *,
    model: nn.Module | None = None,
    attack: AttackSpec = QUICK,
    data: tuple[Tensor, Tensor] | None = None,
    separable: bool | None = None,
    size: int | None = None,
    protocols: Sequence[str] = tuple(PROTOCOLS),
) -> tuple[Record, Record, Verdict, dict[str, Tensor]]:
    """Run protocols; return both records, the verdict and each stage's flags (N,)."""
    linear, images, labels = planted()
    images, labels = data or (images, labels)
    spec: Any = defense
    given = {}
    if not isinstance(defense, DentSpec | DefenseSpec):
        declared = defense.separable if separable is None else separable
        spec = DefenseSpec(name=type(defense).__name__, sha256="0", separable=declared)
        given = {spec: defense}
    static = EvalSpec(
        model=ModelSpec(name="planted", sha256="0"),
        data=DataSpec(name="planted", sha256="0", first=0, count=len(images)),
        batches=BatchPlan(size=size or len(images)),
        attack=attack,
        protocols=SHORT if attack.name == "quick" else ProtocolSpec(),
    )
    defended = EvalSpec(**{**vars(static), "defense": spec})
    subject = RunInputs(network=model or linear, images=images, labels=labels)
    run = Evaluation(subject, RunOptions(results=results), None, given)
    first, second = run.run([static, defended], protocols)
    flags = {
        stage: torch.tensor(
            [item for batch in run.outcomes(defended, stage) for item in batch.correct]
        )
        for stage in (NATURAL, *second.protocol_counts)
    }
    return first, second, verdict(first, second), flags


def failures(record: Record) -> set[str]:
    return {check.name for check in failed(record.checks)}


class Planted(nn.Module):
    """A planted defense around the linear model."""

    separable = True

    def __init__(self) -> None:
        super().__init__()
        self.model = planted()[0]


# --- the truth is a closed form -------------------------------------------------------------------


class Projecting(Planted):
    """Really helps: smoothing takes away the directions that only the attacker uses."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(smooth(x))
        return logits


# --- answers that are not a function of the image -------------------------------------------------


class Voting(Planted):
    """Reads its batch mates: the images before and after, of the same label in a sorted set.

    Alone it is the static model.
    """

    separable = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + 3 * (logits.roll(1, 0) + logits.roll(-1, 0))


@whole
def test_votes_of_batch_mates_gain_nothing(tmp_path: Path) -> None:
    _, images, labels = planted()
    order = labels.argsort(stable=True)
    _, defended, said, _ = evaluated(
        tmp_path,
        Voting(),
        data=(images[order], labels[order]),
        size=COUNT // 10,
        protocols=COMPOSED,
    )
    assert said.kind in NOT_BETTER and said.protocol == "batch-mates", said
    assert "separable" not in failures(defended), "it is declared to depend on its mates"


class Shy(Projecting):
    """Really helps in company; an image alone, perturbed or not, gets the answer of another class.

    That is how batch statistics fail, which say little of a single image.
    """

    separable = False

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.roll(1, 1) if len(x) == 1 else logits


class Balanced(Shy):
    """Answers with another class wherever most of the batch seems to be of two classes or one."""

    def forward(self, x: Tensor) -> Tensor:
        logits = Projecting.forward(self, x)
        counts = torch.bincount(logits.argmax(1), minlength=CLASSES).sort(descending=True).values
        skewed = len(x) > 8 and int(counts[:2].sum()) > 0.9 * len(x)
        return logits.roll(1, 1) if skewed else logits


@whole
def test_what_fails_alone_without_an_attack_is_not_broken_by_one(tmp_path: Path) -> None:
    static, defended, said, flags = evaluated(tmp_path, Shy(), size=COUNT // 6, protocols=COMPOSED)
    truth = closed_form(projected(planted()[0])) & flags[NATURAL]
    assert defended.robust_correct == int(truth.sum()) > static.robust_correct
    actual = json.loads(defended.batch_mates or "")["compositions"]
    assert actual["alone"]["natural"] == 0 and actual["alone"]["broken"] == 0
    assert actual["alone"]["lost"] == defended.natural_correct == actual["declared"]["natural"]
    assert actual["shuffled"]["attacked"] == actual["declared"]["attacked"]
    assert "other-batches" not in failures(defended), "an image alone is told of, not a doubt"
    assert said.kind == "undecided"
    assert "the attack is shortened quick, not AutoAttack; run --attack standard" in said.doubts


@pytest.mark.panel
@whole
def test_a_gain_in_balanced_batches_alone_is_in_doubt(tmp_path: Path) -> None:
    _, defended, said, _ = evaluated(tmp_path, Balanced(), size=COUNT // 6, protocols=COMPOSED)
    actual = json.loads(defended.batch_mates or "")["compositions"]
    assert actual["label-sorted"]["natural"] < 0.2 * COUNT
    assert "other-batches" in failures(defended)
    assert said.kind != "holds" and any("other-batches" in doubt for doubt in said.doubts)


# --- networks with batch normalization ------------------------------------------------------------


@pytest.mark.panel
@whole
def test_statistics_of_the_batch_gain_nothing(tmp_path: Path) -> None:
    model, *data = digits(24)
    attack = AttackSpec(name="quick", eps=Fraction(1, 5), iterations=3)
    defense = DefenseSpec(name="norm", settings=(("share", 1.0),))
    _, _, said, _ = evaluated(
        tmp_path,
        defense,
        model=model,
        attack=attack,
        data=tuple(data),
        size=8,
        protocols=COMPOSED,
    )
    # Few batches are too few for a verdict on images that share it.
    assert said.kind in (*NOT_BETTER, "undecided") and said.gain_points < 0, said


def test_dent_gains_nothing(tmp_path: Path) -> None:
    model, *data = digits(8)
    attack = AttackSpec(name="quick", eps=Fraction(1, 5), iterations=2, targets=1)
    defense = DentSpec(lr=0.02, loss="entropy")
    few = ("published", "transfer", "warm", "unrolled")
    _, defended, said, _ = evaluated(
        tmp_path, defense, model=model, attack=attack, data=tuple(data), protocols=few
    )
    assert said.kind in ("no gain", "undecided"), said
    assert "exact-gradient" in failures(defended)
