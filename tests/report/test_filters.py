"""Which records a report is of, and what their models are called."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dentbench.errors import StoreError
from dentbench.report.conditions import where
from dentbench.report.filters import distinguished
from tests.report.fixed_records import DENT, make


def test_models_of_one_name_are_distinguished() -> None:
    first = replace(
        make(1, 60, {"published": 40}), model="mine:make", model_code="ab" * 32, order="given"
    )
    edited = replace(first, key="2", model_code="cd" * 32)
    trained = replace(first, key="3", model_sha256="ef" * 32)
    older = replace(first, key="4", model_code=None)
    named = [item.model for item in distinguished([first, edited])]
    assert named == ["mine:make, code ababab", "mine:make, code cdcdcd"]
    assert [item.model for item in distinguished([first, trained])] == [
        f"mine:make, weights {first.model_sha256[:6]}",
        "mine:make, weights efefef",
    ]
    assert [item.model for item in distinguished([first, older])][1] == "mine:make, code unknown"
    records = distinguished([first, edited, replace(first, key="5", model="mine:make2")])
    assert where(records, ["model=mine:make"]) == records[:2]
    assert records[2].model == "mine:make2"


def test_a_verdict_that_no_record_has_is_refused_with_those_there_are() -> None:
    static, defended = make(1, 60, {"published": 60}), make(2, 61, {"published": 61}, **DENT)
    defended = replace(defended, gained=1, lost=0, n=100)
    with pytest.raises(StoreError, match=r"no record has verdict=holds; .*no verdict \(static mod"):
        where([static, defended], ["verdict=holds"])
    assert where([static, defended], ["verdict=undecided"]) == [defended]
    assert where([static, defended], ["verdict="]) == [static]


def test_models_with_a_card_have_the_code_that_it_names() -> None:
    card = replace(make(1, 60, {"published": 40}), model="digits-robust", model_code="ab" * 32)
    records = [card, replace(card, key="2", model_code=None)]
    assert distinguished(records) == records
