"""Outcomes reduced to records, against a slow count image by image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentbench.records.aggregate import batch_worst, by_batch, summarize, worst_case
from dentbench.records.outcome import (
    NATURAL,
    BatchOutcome,
    Record,
    column_names,
    eps_of,
    spec_columns,
)
from dentbench.spec.evaluation import (
    AttackSpec,
    BatchPlan,
    DataSpec,
    DentSpec,
    EvalSpec,
    ModelSpec,
    ProtocolSpec,
    field_names,
)

SPEC = EvalSpec(
    model=ModelSpec(name="net", sha256="ab"),
    data=DataSpec(name="data", sha256="cd", first=3, count=5),
    batches=BatchPlan(size=2),
    defense=DentSpec(steps=4, lr=0.25),
    attack=AttackSpec(name="quick", norm="L2", eps=Fraction(1, 3), queries=7),
    seed=9,
)


def outcome(
    stage: str,
    index: int,
    correct: Sequence[bool],
    attack_correct: Sequence[bool] | None = None,
    broken_by: Sequence[str] | None = None,
) -> BatchOutcome:
    return BatchOutcome(
        stage=stage,
        index=index,
        correct=tuple(correct),
        static_correct=(True,) * len(correct),
        attack_correct=tuple(correct if attack_correct is None else attack_correct),
        broken_by=tuple(["" for _ in correct] if broken_by is None else broken_by),
        forwards=10 + index,
        backwards=index,
        seconds=0.25,
    )


def split(stage: str, flags: Sequence[bool], size: int = 2) -> list[BatchOutcome]:
    """The outcomes of a stage in batches of ``size``."""
    return [outcome(stage, at // size, flags[at : at + size]) for at in range(0, len(flags), size)]


def flags_of(count: int) -> st.SearchStrategy[list[bool]]:
    return st.lists(st.booleans(), min_size=count, max_size=count)


situations = st.integers(1, 9).flatmap(
    lambda count: st.tuples(flags_of(count), flags_of(count), flags_of(count), flags_of(count))
)


@settings(deadline=None)
@given(situations)
def test_counts_equal_a_slow_count(flags: tuple[list[bool], ...]) -> None:
    natural, published, transfer, static = flags
    stages = {
        NATURAL: split(NATURAL, natural),
        "published": split("published", published),
        "transfer": split("transfer", transfer, size=3),
    }
    summary = summarize(stages, {NATURAL: split(NATURAL, static)})

    worst = []
    for right, first, second in zip(natural, published, transfer, strict=True):
        worst.append(right and first and second)
    gained = lost = 0
    for ours, theirs in zip(worst, static, strict=True):
        if ours and not theirs:
            gained += 1
        if theirs and not ours:
            lost += 1
    by_protocol = {"published": 0, "transfer": 0}
    for right, first, second in zip(natural, published, transfer, strict=True):
        by_protocol["published"] += right and first
        by_protocol["transfer"] += right and second

    newly = {"published": 0, "transfer": 0}
    for right, first, second in zip(natural, published, transfer, strict=True):
        newly["published"] += right and not first
        newly["transfer"] += right and first and not second
    assert json.loads(summary["newly_broken"]) == newly

    assert worst_case(stages) == tuple(worst)
    assert summary["n"] == len(natural)
    assert summary["natural_correct"] == natural.count(True)
    assert summary["robust_correct"] == worst.count(True)
    assert (summary["gained"], summary["lost"]) == (gained, lost)
    assert summary["robust_correct"] == static.count(True) + gained - lost
    assert json.loads(summary["by_protocol"]) == by_protocol
    assert by_protocol[summary["worst_protocol"]] == min(by_protocol.values())
    assert summary["autoattack_correct"] == published.count(True)
    assert summary["protocol"] == "published transfer"
    everything = [batch for outcomes in stages.values() for batch in outcomes]
    assert summary["forwards"] == sum(10 + batch.index for batch in everything)
    assert summary["backwards"] == sum(batch.index for batch in everything)
    assert summary["seconds"] == 0.25 * len(everything)


def test_an_image_that_is_wrong_without_an_attack_is_right_under_none() -> None:
    stages = {
        NATURAL: [outcome(NATURAL, 0, [False, True])],
        "published": [outcome("published", 0, [True, True])],
    }
    summary = summarize(stages)
    assert summary["robust_correct"] == 1
    assert json.loads(summary["by_protocol"]) == {"published": 1}


def test_a_static_record_compares_with_nothing() -> None:
    summary = summarize({NATURAL: split(NATURAL, [True]), "published": split("published", [True])})
    assert summary["gained"] is None and summary["lost"] is None


def test_without_the_published_protocol_there_are_no_flags_of_autoattack() -> None:
    stages = {NATURAL: split(NATURAL, [True]), "transfer": split("transfer", [False])}
    summary = summarize(stages, {NATURAL: split(NATURAL, [True])})
    assert summary["autoattack_correct"] is None
    assert json.loads(summary["broken_by"]) == {}
    assert (summary["worst_protocol"], summary["lost"]) == ("transfer", 1)


def test_the_attacks_own_flags_and_who_broke_what_are_kept_apart_from_our_judgement() -> None:
    stages = {
        NATURAL: [outcome(NATURAL, 0, [True, True, False, True])],
        "published": [
            outcome(
                "published",
                0,
                [True, False, False, True],
                attack_correct=[False, False, False, True],
                broken_by=["square", "apgd-ce", "natural", ""],
            )
        ],
    }
    summary = summarize(stages)
    assert summary["autoattack_correct"] == 1
    assert summary["robust_correct"] == 2
    assert json.loads(summary["broken_by"]) == {"apgd-ce": 1, "natural": 1, "square": 1}


@settings(deadline=None)
@given(situations)
def test_the_worst_of_every_batch_equals_a_slow_count(flags: tuple[list[bool], ...]) -> None:
    natural, published, transfer, _ = flags
    stages = {
        name: split(name, rows)
        for name, rows in ((NATURAL, natural), ("published", published), ("transfer", transfer))
    }
    total = 0
    for at in range(0, len(natural), 2):
        rows = range(at, min(at + 2, len(natural)))
        total += min(sum(natural[i] and kind[i] for i in rows) for kind in (published, transfer))
    assert batch_worst(stages) == total
    coupled = summarize(stages, separable=False)
    assert coupled["batch_worst_correct"] == total >= coupled["robust_correct"]
    assert summarize(stages)["batch_worst_correct"] is None


def test_the_passes_of_every_stage_are_told() -> None:
    stages = {NATURAL: split(NATURAL, [True] * 3), "published": split("published", [True] * 3)}
    summary = summarize(stages)
    assert json.loads(summary["passes"]) == {NATURAL: 10 + 12, "published": 10 + 12}
    assert summary["forwards"] + summary["backwards"] == 44


def test_a_batch_is_judged_as_a_whole() -> None:
    """In a cascade an image that was broken before counts as broken, but not as judged."""
    early = replace(outcome("transfer", 0, [False, True]), judged=(False, True))
    later = replace(outcome("warm", 0, [False, False]), judged=(True, False))
    stages = {NATURAL: [outcome(NATURAL, 0, [True, True])], "transfer": [early], "warm": [later]}
    summary = summarize(stages, separable=False)
    assert (summary["robust_correct"], summary["batch_worst_correct"]) == (0, 1)


def test_the_numbers_of_batch_mates_are_added_up() -> None:
    counts = {"natural": 2, "attacked": 1, "lost": 0, "broken": 1}
    details = {
        "compositions": {"shuffled": counts},
        "invading": {"5%": {"malicious": 1, "right_after": 0}},
    }
    natural = split(NATURAL, [True, True, True, False])
    mates = [
        replace(part, details=details) for part in split("batch-mates", [True, False, True, True])
    ]
    actual = json.loads(summarize({NATURAL: natural, "batch-mates": mates})["batch_mates"])
    assert actual["compositions"]["shuffled"] == {key: 2 * value for key, value in counts.items()}
    assert actual["compositions"]["declared"] == {"natural": 3, "attacked": 2}
    assert actual["invading"] == {"5%": {"malicious": 2, "right_after": 0}}
    assert summarize({NATURAL: natural})["batch_mates"] is None


@settings(deadline=None)
@given(situations)
def test_the_counts_of_every_batch_equal_a_slow_count(flags: tuple[list[bool], ...]) -> None:
    natural, published, transfer, static = flags
    stages = {
        name: split(name, rows)
        for name, rows in ((NATURAL, natural), ("published", published), ("transfer", transfer))
    }
    cases = {NATURAL: tuple(static)}
    actual = json.loads(by_batch(stages, cases))
    for number, start in enumerate(range(0, len(natural), 2)):
        rows = range(start, min(start + 2, len(natural)))
        worst = [natural[i] and published[i] and transfer[i] for i in rows]
        assert actual["natural"][number] == sum(natural[i] for i in rows)
        assert actual["published"][number] == sum(natural[i] and published[i] for i in rows)
        assert actual["worst"][number] == sum(worst)
        pairs = list(zip(worst, (static[i] for i in rows), strict=True))
        assert actual["gained"][number] == pairs.count((True, False))
        assert actual["lost"][number] == pairs.count((False, True))
    assert "gained" not in json.loads(by_batch(stages, None))
    assert summarize(stages)["by_batch"] is None, "images on their own share no batches"


# --- columns --------------------------------------------------------------------------------------


def test_every_column_is_documented() -> None:
    for field in fields(Record):
        assert field.metadata["doc"], field.name
    assert len(set(column_names())) == len(fields(Record))


def columns(spec: EvalSpec) -> Mapping[str, Any]:
    result = spec_columns(spec)
    assert set(result) <= set(column_names())
    return result


def test_every_setting_of_a_spec_has_its_column() -> None:
    actual = columns(SPEC)
    for name in field_names(DentSpec):
        assert actual[name] == getattr(SPEC.defense, name)
    assert actual["attack"] == "quick" and actual["norm"] == "L2" and actual["eps"] == "85/255"
    assert (actual["iterations"], actual["queries"], actual["targets"]) == (None, 7, None)
    assert (actual["model"], actual["model_sha256"]) == ("net", "ab")
    assert (actual["dataset"], actual["data_sha256"]) == ("data", "cd")
    assert (actual["first"], actual["count"], actual["batch_size"]) == (3, 5, 2)
    assert (actual["batching"], actual["seed"], actual["separable"]) == ("declared", 9, False)
    assert actual["key"] == SPEC.key()
    own = replace(SPEC, protocols=ProtocolSpec(rounds=4, fractions=(0.25,)))
    assert json.loads(columns(own)["protocol_settings"]) == {
        **asdict(own.protocols),
        "fractions": [0.25],
    }
    assert ProtocolSpec.from_json(columns(own)["protocol_settings"]) == own.protocols


def test_a_static_spec_leaves_the_columns_of_dent_empty() -> None:
    spec = EvalSpec(model=SPEC.model, data=SPEC.data)
    record = Record(**columns(spec))
    assert record.mode == "static" and record.separable
    for name in {*field_names(DentSpec), "protocol_settings"} - {"mode"}:
        assert getattr(record, name) is None


@pytest.mark.parametrize("eps", [Fraction(8, 255), Fraction(1, 3), Fraction(0), Fraction(1, 7)])
def test_a_records_eps_is_exact(eps: Fraction) -> None:
    spec = EvalSpec(model=SPEC.model, data=SPEC.data, attack=AttackSpec(eps=eps))
    record = Record(**columns(spec), by_protocol='{"published": 1, "transfer": 0}')
    assert eps_of(record) == eps
    assert record.protocol_counts == {"published": 1, "transfer": 0}
