"""The runs of an ablation: Table 2's rows, grids, and combinations that contradict themselves."""

from __future__ import annotations

from typing import Any

import pytest

from dentbench.errors import SpecError, UnknownNameError
from dentbench.paper import ABLATION_THREATS, TABLE2
from dentbench.spec.evaluation import DentSpec, parse_eps
from dentbench.study import table1, table2
from dentbench.study.parsing import parse_settings, parse_threat
from dentbench.study.study import Request, find_card, make_studies
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.cards.model_cards import MODELS


def defenses(**axes: list[Any]) -> list[DentSpec | None]:
    return [defense for defense, _ in table2.choose_defenses(axes, None)][:-1]


def notes(**axes: list[Any]) -> tuple[str, ...]:
    return table2.choose_defenses(axes, None)[-1][1]


def test_without_options_they_are_the_papers_six_rows_in_its_order() -> None:
    actual = defenses()
    assert actual[0] is None  # no Delta, no Sigma, no step: the static model itself
    rows = [("none", "none", 0), *((d.delta, d.blur, d.steps) for d in actual if d)]
    assert rows == [("affine" if r.delta else "none", r.sigma, r.steps) for r in TABLE2]
    assert all(d.mode == "batch" for d in actual if d)
    for defense in filter(None, actual):
        assert defense == DentSpec(mode="batch", steps=defense.steps, blur=defense.blur)


@pytest.mark.parametrize(("blur", "count"), [("none", 2), ("static", 3), ("dynamic", 1)])
def test_the_blur_alone_chooses_rows(blur: str, count: int) -> None:
    assert table2.is_table2({"blur": [blur], "steps": ()})
    actual = defenses(blur=[blur])
    assert len(actual) == count
    assert [d for d in defenses() if (d.blur if d else "none") == blur] == actual


def test_anything_else_makes_a_grid_in_the_order_given() -> None:
    axes = {"steps": [1, 3], "loss": ["shot", "entropy"]}
    assert not table2.is_table2(axes)
    assert [(d.steps, d.loss, d.mode) for d in defenses(**axes) if d] == [
        (1, "shot", "batch"),
        (1, "entropy", "batch"),
        (3, "shot", "batch"),
        (3, "entropy", "batch"),
    ]
    modes = defenses(mode=["instance", "batch"], gamma_lr=[0.5])
    assert [(d.mode, d.gamma_lr) for d in modes if d] == [("instance", 0.5), ("batch", 0.5)]


def test_points_that_differ_in_nothing_that_matters_are_one() -> None:
    grid = {"steps": [0, 1], "loss": ["shot", "entropy"], "lr": [0.1, 0.2]}
    actual = list(dict.fromkeys(defenses(**grid)))
    assert actual[0] is None and len(actual) == 1 + 4
    blurs = {"blur": ["none", "static", "dynamic"], "sigma": [0.5, 0.7], "steps": [2]}
    actual = list(dict.fromkeys(defenses(**blurs)))
    assert [(d.blur, d.sigma) for d in actual if d] == [
        ("none", None),
        ("static", 0.5),
        ("static", 0.7),
        ("dynamic", 0.5),
        ("dynamic", 0.7),
    ]


def test_contradictions_are_left_out_and_told_or_refused() -> None:
    remarks = notes(steps=[0, 1], blur=["static", "dynamic"])
    assert len(remarks) == 1 and "left out" in remarks[0] and "sigma would never move" in remarks[0]
    kept = defenses(steps=[0, 1], blur=["static", "dynamic"])
    assert [(d.steps, d.blur) for d in kept if d] == [(0, "static"), (1, "static"), (1, "dynamic")]
    with pytest.raises(SpecError, match="sigma would never move"):
        defenses(steps=[0], blur=["dynamic"])
    with pytest.raises(SpecError, match="which has no sigma"):
        defenses(blur=["none"], sigma=[0.5])
    with pytest.raises(SpecError, match="allowed: none, static, dynamic"):
        defenses(blur=["median"])
    with pytest.raises(SpecError, match="sigma is -1"):
        defenses(blur=["static"], sigma=[-1.0])
    with pytest.raises(SpecError, match="mix:2"):
        defenses(statistics=["mix:2"])
    with pytest.raises(SpecError, match="lr is 0"):
        defenses(optimizer=["sgd"], lr=[0.0])


def test_a_recommended_learning_rate_is_not_for_a_model_that_stays() -> None:
    card = MODELS["digits-robust"]
    assert "lr" in card.recommended
    axes = {"mode": ["instance"], "delta": ["none"], "blur": ["dynamic"], "steps": [2]}
    (defense, _), _ = table2.choose_defenses(axes, card)
    assert defense and defense.delta == "none" and defense.sigma_lr


def test_threats_are_the_data_sets_own_or_the_papers() -> None:
    paper = ("Linf:1.5/255", "L2:0.2")
    assert table2.threats_of(MODELS["AutoAttackResNet18"]) == paper == table2.threats_of(None)
    assert tuple((n, parse_eps(e)) for n, e in map(parse_threat, paper)) == ABLATION_THREATS
    own = DATASETS["digits"].ablation_threats
    assert own and table2.threats_of(MODELS[table2.DEFAULT_MODEL]) == own
    (study,) = make_studies(
        Request(models=["digits-nominal"], threats=own),
        lambda card: table2.choose_defenses({}, card),
    )
    assert [(a.norm, a.eps) for a in study.attacks] == [
        ("Linf", parse_eps("0.15")),
        ("L2", parse_eps("0.7")),
    ]


@pytest.mark.parametrize(
    ("dataset", "model"),
    [
        (None, "digits-nominal"),
        ("digits", "digits-nominal"),
        ("own.npz", "digits-nominal"),
        ("cifar10", "cifar10-resnet20-nominal"),
        ("CIFAR-10", "cifar10-resnet20-nominal"),
        ("cifar10-sample", "cifar10-resnet20-nominal"),
        ("folder/test.parquet", "cifar10-resnet20-nominal"),
    ],
)
def test_the_default_model_is_at_home_on_the_data(dataset: str | None, model: str) -> None:
    assert table2.default_model(dataset) == model
    assert MODELS[model].details["training"]["recipe"]["steps"] == 0  # a nominal one


@pytest.mark.parametrize("text", ["Linf", "Linf:", ":0.1", "0.1"])
def test_bad_threats_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="write NORM:EPS"):
        parse_threat(text)
    with pytest.raises(SpecError, match="choose one way"):
        Request(models=[], threats=["L2:1"], norm="Linf").attacks(None)


def test_settings_are_typed() -> None:
    actual = parse_settings(["beta1=0.5", "nesterov=False", "gamma-lr = 1e-2"], once=True)
    assert actual == {"beta1": 0.5, "nesterov": False, "gamma_lr": 0.01}
    assert DentSpec(**actual).nesterov is False
    assert parse_settings(["beta1=0.5", "beta1=0.6"]) == {"beta1": [0.5, 0.6]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta4=1", "NAME one of beta1, beta2, beta3"),
        ("beta1", "write NAME=VALUE"),
        ("beta1=x", "'x' is not a number"),
        ("nesterov=1", "true or false"),
        ("lr=0.1", "has an option of its own, --lr"),
        ("sigma_lr=0.1", "--sigma-lr"),
    ],
)
def test_bad_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_settings([text])
    with pytest.raises(SpecError, match="beta1 more than once"):
        parse_settings(["beta1=0.5", "beta1=0.6"], once=True)


# ------------------------------------------------------------------------------------- Table 1


def test_table1_is_two_modes_of_the_papers_models_at_its_threat_model() -> None:
    studies = [
        study
        for request in table1.requests(Request(models=[]))
        for study in make_studies(request, table1.choose_defenses)
    ]
    assert [study.model for study in studies] == ["Carmon2019Unlabeled", "Ding2020MMA"]
    for study in studies:
        assert study.defenses == (DentSpec(mode="batch", steps=30), DentSpec(steps=6))
        (attack,) = study.attacks
        assert (attack.name, attack.norm, attack.eps) == ("standard", "Linf", parse_eps("8/255"))
        assert study.card and study.card.dataset == "cifar10" and study.data.examples is None


def test_table1_of_other_models() -> None:
    def eps(name: str, **changes: Any) -> str:
        (request,) = table1.requests(Request(models=[name], **changes))
        (attack,) = request.attacks(find_card(name))
        return f"{attack.norm} {float(attack.eps):.4g}"

    assert eps("AutoAttackResNet18") == "Linf 0.03137"  # not its card's own
    assert eps("digits-robust") == "Linf 0.15"
    assert eps("AutoAttackResNet18", norm="L2", eps="0.2") == "L2 0.2"
    with pytest.raises(UnknownNameError):
        table1.requests(Request(models=["Carmon2018"]))


def test_table1_has_its_own_settings() -> None:
    table1.check(1, [], Request(models=[]))
    with pytest.raises(SpecError, match="dentbench ablate"):
        table1.check(2, [], Request(models=[]))
    with pytest.raises(SpecError, match="--sigma-lr given"):
        table1.check(1, ["sigma_lr"], Request(models=[]))
