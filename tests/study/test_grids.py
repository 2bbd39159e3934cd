"""Grids of eps and of steps: their values, and robust accuracy at eps 0."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from dentbench.cli.running import by_attack, each_steps
from dentbench.errors import ModelError, SpecError
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
    parse_eps,
)
from dentbench.study.parsing import parse_eps_grid, parse_steps_grid
from dentbench.study.study import Request, make_studies
from dentbench.zoo.data_choice import DataChoice
from tests.reference import tiny_network


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0..2/255", [Fraction(0), Fraction(1, 255), Fraction(2, 255)]),
        ("0..16/255:8", [Fraction(0), Fraction(8, 255), Fraction(16, 255)]),
        ("1..4/255:2", [Fraction(1, 255), Fraction(3, 255)]),
        ("0..0.3:0.1", [Fraction(0), Fraction(1, 10), Fraction(1, 5), Fraction(3, 10)]),
        ("0.5, 8/255,0", [Fraction(0), Fraction(8, 255), Fraction(1, 2)]),
        ("0,0..1/255", [Fraction(0), Fraction(1, 255)]),
    ],
)
def test_eps_grids_are_exact(text: str, values: list[Fraction]) -> None:
    assert [*map(parse_eps, parse_eps_grid(text))] == values


def test_steps_grids() -> None:
    assert parse_steps_grid("0..3") == (0, 1, 2, 3)
    assert parse_steps_grid("0..30:10") == (0, 10, 20, 30)
    assert parse_steps_grid("6,1,3") == (1, 3, 6)


@pytest.mark.parametrize(
    "text", ["", "x", "3..1/255", "0..", "0..1:0", "-1..2", "0..9999", "1e9..2e9"]
)
def test_what_is_no_grid_of_eps(text: str) -> None:
    with pytest.raises(SpecError, match=r"--eps-grid is .* write a range such as 0\.\.16/255"):
        parse_eps_grid(text)


def test_what_is_no_grid_of_steps() -> None:
    with pytest.raises(SpecError, match=r"--steps-grid is '0\.5'; .* whole numbers"):
        parse_steps_grid("0.5")
    with pytest.raises(SpecError, match="--steps is given beside --steps-grid"):
        each_steps({"steps": 3}, "0..6")
    with pytest.raises(SpecError, match="--eps is given beside --eps-grid"):
        Request(models=(), eps="8/255", eps_grid=("0",)).attacks(None)


def test_a_grid_is_one_study_of_several_attacks() -> None:
    request = Request(models=("digits-robust",), eps_grid=parse_eps_grid("0..0.2:0.1"))
    (study,) = make_studies(request, lambda card: [(None, ())])
    assert [attack.eps for attack in study.attacks] == [0, Fraction(1, 10), Fraction(1, 5)]
    assert {attack.norm for attack in study.attacks} == {"Linf"}
    assert by_attack(study, [1, 2, 3, 4, 5, 6]) == [[1, 2], [3, 4], [5, 6]]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("model", "dataset", "words"),
    [
        ("cifar10-resnet20-robust", "digits", r"\(1 x 8 x 8, 10 classes\) were .* digits-"),
        ("digits-robust", "CIFAR-10", r"classifies images of UCI digits.*such as cifar10-.*--data"),
        ("Carmon2019", "cifar100", r"10 classes\), and images of CIFAR-100"),
    ],
)
def test_a_model_of_other_images_is_refused_before_it_is_loaded(
    model: str, dataset: str, words: str
) -> None:
    request = Request(models=(model,), data=DataChoice(dataset=dataset))
    with pytest.raises(ModelError, match=words):
        make_studies(request, lambda card: [(None, ())])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_at_eps_0_robust_is_natural(tmp_path: Path, norm: str) -> None:
    images = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = tiny_network()(images).argmax(1)
    labels[::3] = (labels[::3] + 1) % 10
    static = EvalSpec(
        model=ModelSpec(name="toy", sha256="0"),
        data=DataSpec(name="noise", sha256="1", first=0, count=10),
        batches=BatchPlan(size=4),
        attack=AttackSpec(norm=norm, eps=Fraction(0)),
    )
    evaluation = Evaluation(
        RunInputs(network=tiny_network(), images=images, labels=labels),
        RunOptions(results=tmp_path),
    )
    dent = replace(static, defense=DentSpec(mode="batch", steps=1, lr=0.05))
    protocols = ["published", "transfer", "surrogate", "warm", "gmsa-min", "batch-mates"]
    for record in evaluation.run([static, dent], protocols):
        assert record.robust_correct == record.natural_correct
        assert set(record.protocol_counts.values()) == {record.natural_correct}
    assert record.natural_correct < 10 and len(record.protocol_counts) == 6
