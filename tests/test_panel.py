"""A panel of planted defenses whose truth is known by construction; the verdict must be right.

Most are planted around a linear model, whose robust accuracy has a closed form: an image is
robust in Linf where its margin over every class exceeds eps times the L1 norm of the difference
of the two classes' weights. That bounds every attack from above, image by image.
"""

from __future__ import annotations

import json
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.checks import failed
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.worker import Subject
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

COUNT, CLASSES, SIDE = 120, 4, 6
EPS = Fraction(1, 20)
STEP = 0.05
"""Pixels of the planted images are multiples of it, and eps is one of it."""

QUICK = AttackSpec(name="quick", eps=EPS, iterations=10)
SHORT = ProtocolSpec(rounds=2, queries=60, fractions=(0.05,))
NOT_BETTER = ("no gain", "weaker than static")


class Linear(nn.Module):
    """Logits W x + b of images (B, 1, 6, 6)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = F.linear(x.flatten(1), self.weight, self.bias)
        return logits

    def robust(self, x: Tensor, labels: Tensor, eps: float) -> Tensor:
        """The closed form (B,): right for every point within eps, the box not counted."""
        margins = self(x).gather(1, labels[:, None]) - self(x)
        reach = (self.weight[labels][:, None] - self.weight).abs().sum(2)
        own = F.one_hot(labels, CLASSES).bool()
        robust: Tensor = ((margins > eps * reach) | own).all(1)
        return robust


def smooth(x: Tensor) -> Tensor:
    """The mean of every 2 x 2 block, in the place of its pixels: a projection."""
    return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)


@cache
def planted() -> tuple[Linear, Tensor, Tensor]:
    """A linear model with smooth and rough weights, images far from 0 and 1, and their labels."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(CLASSES, 1, SIDE, SIDE, generator=generator)
    low = smooth(draw)
    rough = torch.randn(draw.shape, generator=generator)
    rough = 1.5 * (rough - smooth(rough))
    labels = torch.arange(COUNT) % CLASSES
    strength = 0.18 + 0.15 * torch.rand(COUNT, 1, 1, 1, generator=generator)
    pattern = low - low.mean(0)
    noise = 0.05 * torch.randn(COUNT, 1, SIDE, SIDE, generator=generator)
    images = 0.5 + (strength * pattern[labels] + noise).clamp(-0.35, 0.35)
    images = STEP * (images / STEP).round()
    weight = (low + rough).flatten(1)
    return Linear(weight, -weight.sum(1) / 2), images, labels


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
) -> tuple[Record, Record, Verdict, dict[str, Tensor]]:
    """Run every protocol; return both records, the verdict and each stage's flags (N,)."""
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
    subject = Subject(network=model or linear, images=images, labels=labels)
    run = Evaluation(subject, RunOptions(results=results), None, given)
    first, second = run.run([static, defended], tuple(PROTOCOLS))
    flags = {
        stage: torch.tensor(
            [one for batch in run.outcomes(defended, stage) for one in batch.correct]
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


def projected(model: Linear) -> Linear:
    """The defense as the linear model that it is."""
    weight = smooth(model.weight.detach().view(CLASSES, 1, SIDE, SIDE)).flatten(1)
    return Linear(weight, model.bias.detach())


def test_a_robust_linear_model_holds_and_nothing_beats_its_closed_form(tmp_path: Path) -> None:
    model, images, labels = planted()
    some = slice(0, 24)
    standard = AttackSpec(eps=EPS)
    found = evaluated(tmp_path, Projecting(), attack=standard, data=(images[some], labels[some]))
    static, defended, said, flags = found
    truth = closed_form(projected(model))[some]
    assert static.robust_correct == int(closed_form(model)[some].sum())
    assert defended.robust_correct == int(truth.sum()) > static.robust_correct
    for stage, right in flags.items():
        assert bool((right | ~truth).all()), f"{stage} broke an image that cannot be broken"
    assert said.kind == "holds", said
    assert not failures(defended) & {"gradient", "true-gradient", "ascent", "stateless"}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_protocol_beats_the_closed_form_of_the_static_model(tmp_path: Path, norm: str) -> None:
    """A defense that does nothing, in Linf with its closed form, in L2 with that of L2."""
    model, images, labels = planted()
    eps = EPS if norm == "Linf" else Fraction(1, 5)
    attack = AttackSpec(name="quick", norm=norm, eps=eps, iterations=10)
    static, defended, said, flags = evaluated(tmp_path, Nothing(), attack=attack)
    truth = closed_form(model)
    if norm == "L2":
        margins = model(images).gather(1, labels[:, None]) - model(images)
        reach = (model.weight[labels][:, None] - model.weight).norm(dim=2)
        truth = ((margins > float(eps) * reach) | F.one_hot(labels, CLASSES).bool()).all(1)
    assert 0 < int(truth.sum()) < COUNT
    for stage, right in flags.items():
        assert bool((right | ~truth).all()), f"{stage} broke an image that cannot be broken"
    assert static.robust_correct == defended.robust_correct == int(truth.sum())
    assert said.kind == "no gain"


class Nothing(Planted):
    """No defense at all, in two parts, so that every protocol can be run on it."""

    def adapt(self, x: Tensor) -> Tensor:
        return torch.zeros(())

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        return torch.zeros(())

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x, self.adapt(x))


class Quantised(Planted):
    """Masks the gradient: the network is shown the nearest multiple of the step."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(STEP * (x / STEP).round())
        return logits


class Moving(Nothing):
    """Moves after the attacker: what autograd takes for a constant undoes the reversed gradient.

    As a function of the images it is the static model.
    """

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        twice: Tensor = 2 * self.model(x)
        return twice

    def adapt(self, x: Tensor) -> Tensor:
        return self.unroll(x).detach()

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        logits: Tensor = adaptation - self.model(x)
        return logits


class Denoising(Planted):
    """An honest denoiser: it takes half of the variance of noise away, yet not of an attack.

    Its network looks at smooth images only, so that smoothing them changes no logit.
    """

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = projected(self.model)(smooth(x))
        return logits


@pytest.mark.parametrize(
    ("kind", "failing", "worst"),
    [
        (Quantised, {"gradient", "ascent", "transfer"}, "transfer"),
        (Moving, {"true-gradient", "exact-gradient", "ascent", "transfer"}, "transfer"),
    ],
)
def test_a_misleading_gradient_gains_nothing(
    tmp_path: Path, kind: type[Planted], failing: set[str], worst: str
) -> None:
    static, defended, said, _ = evaluated(tmp_path, kind())
    truth = int(closed_form(planted()[0]).sum())
    counts = defended.protocol_counts
    assert static.robust_correct == truth
    assert counts["published"] > truth + 0.15 * COUNT, "it looks robust to the direct attack"
    assert counts[worst] <= truth + 1
    assert said.kind in NOT_BETTER, said
    assert failing <= failures(defended)


def test_an_honest_denoiser_of_noise_gains_nothing_against_an_attack(tmp_path: Path) -> None:
    model, images, _ = planted()
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert smooth(noise).var() < noise.var() / 2
    network = projected(model)
    static, defended, said, _ = evaluated(tmp_path, Denoising(), model=network)
    truth = closed_form(network)
    assert static.robust_correct == defended.robust_correct == int(truth.sum()) < COUNT
    assert said.kind == "no gain" and not failures(defended)


# --- answers that are not a function of the image -------------------------------------------------


class Randomized(Planted):
    """Adds noise to the images: on average nothing is gained, and every answer is another."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x + 0.05 * torch.randn_like(x))
        return logits


def test_a_randomized_defense_does_not_hold(tmp_path: Path) -> None:
    _, defended, said, _ = evaluated(tmp_path, Randomized())
    assert "repeatable" in failures(defended)
    assert "eot" in defended.protocol_counts, "random answers are averaged over"
    assert said.kind in ("no gain", "undecided"), said
    assert "expected over 10 draws" in said.sentence


class Voting(Planted):
    """Reads its batch mates: the images before and after, of the same label in a sorted set.

    Alone it is the static model.
    """

    separable = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + 3 * (logits.roll(1, 0) + logits.roll(-1, 0))


def test_votes_of_batch_mates_gain_nothing(tmp_path: Path) -> None:
    _, images, labels = planted()
    order = labels.argsort(stable=True)
    _, defended, said, _ = evaluated(tmp_path, Voting(), data=(images[order], labels[order]))
    assert said.kind in NOT_BETTER and said.protocol == "batch-mates", said
    assert "separable" not in failures(defended), "it is declared to depend on its mates"


def test_a_defense_that_hides_that_it_reads_its_mates_never_holds(tmp_path: Path) -> None:
    _, images, labels = planted()
    order = labels.argsort(stable=True)
    data = (images[order], labels[order])
    _, defended, said, _ = evaluated(tmp_path, Voting(), data=data, separable=True)
    assert "separable" in failures(defended)
    assert said.kind != "holds", said


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


def test_what_fails_alone_without_an_attack_is_not_broken_by_one(tmp_path: Path) -> None:
    static, defended, said, flags = evaluated(tmp_path, Shy())
    truth = closed_form(projected(planted()[0])) & flags[NATURAL]
    assert defended.robust_correct == int(truth.sum()) > static.robust_correct
    found = json.loads(defended.batch_mates or "")["compositions"]
    assert found["alone"]["natural"] == 0 and found["alone"]["broken"] == 0
    assert found["alone"]["lost"] == defended.natural_correct == found["declared"]["natural"]
    assert found["shuffled"]["attacked"] == found["declared"]["attacked"]
    assert "other-batches" not in failures(defended), "an image alone is told of, not a doubt"
    assert said.kind == "undecided"
    assert "the attack is shortened quick, not AutoAttack; run --attack standard" in said.doubts


def test_a_gain_in_balanced_batches_alone_is_in_doubt(tmp_path: Path) -> None:
    _, defended, said, _ = evaluated(tmp_path, Balanced(), size=COUNT // 3)
    found = json.loads(defended.batch_mates or "")["compositions"]
    assert found["label-sorted"]["natural"] < 0.2 * COUNT
    assert "other-batches" in failures(defended)
    assert said.kind != "holds" and any("other-batches" in one for one in said.doubts)


class Remembering(Planted):
    """Returns the first answer given nearby: to the natural images, which are asked first."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        for images, answers in self.seen:
            distance = (x[:, None] - images[None]).abs().flatten(2).amax(2)
            nearest = distance.argmin(1)
            known = distance.amin(1) < 1.2 * float(EPS)
            logits = torch.where(known[:, None], answers[nearest], logits)
        if len(self.seen) < 4:
            self.seen.append((x.detach().clone(), logits.detach().clone()))
        return logits


def test_cached_answers_gain_nothing(tmp_path: Path) -> None:
    """The cache knows the natural labels where the attack ran, and not in a new process."""
    _, defended, said, _ = evaluated(tmp_path, Remembering())
    assert {"stateless", "fresh-process"} <= failures(defended)
    assert defended.robust_correct <= (defended.static_correct or 0)
    assert said.kind != "holds", said


# --- networks with batch normalization ------------------------------------------------------------


def digits(name: str, count: int) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """An embedded model, and the first images and labels of its data set."""
    from dentbench.zoo.arrays import slice_of
    from dentbench.zoo.datasets import load_dataset
    from dentbench.zoo.models import load_model

    images, labels, _ = slice_of(load_dataset("digits"), 0, count)
    return load_model(name).network, (images, labels)


def test_statistics_of_the_batch_gain_nothing(tmp_path: Path) -> None:
    model, data = digits("digits-robust", 100)
    attack = AttackSpec(name="quick", eps=Fraction(1, 5), iterations=5)
    defense = DefenseSpec(name="norm", settings=(("share", 1.0),))
    _, _, said, _ = evaluated(tmp_path, defense, model=model, attack=attack, data=data)
    assert said.kind in NOT_BETTER, said


def test_dent_gains_nothing(tmp_path: Path) -> None:
    model, data = digits("digits-robust", 64)
    attack = AttackSpec(name="quick", eps=Fraction(1, 5), iterations=3, targets=1)
    defense = DentSpec(lr=0.02, loss="entropy")
    _, defended, said, _ = evaluated(tmp_path, defense, model=model, attack=attack, data=data)
    assert said.kind in NOT_BETTER, said
    assert "exact-gradient" in failures(defended)
