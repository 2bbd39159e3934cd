"""Results as a DataFrame: a row per record and protocol, typed and exact."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest

import dentbench
from dentbench.errors import StoreError
from dentbench.records import results_csv
from dentbench.records.frame import by_record
from dentbench.report.conditions import where
from tests.helpers import record
from tests.report.fixed_records import fixed_records

NOT_ATTACKED = {"attack": "none", "protocol": "", "by_protocol": "{}", "worst_protocol": ""}


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    for item in fixed_records():
        results_csv.append(tmp_path, replace(item, order="given"))
    results_csv.append(tmp_path, record(90, **NOT_ATTACKED))
    return dentbench.read_results(tmp_path)


def test_every_record_and_protocol_has_a_row_with_its_count(frame: pd.DataFrame) -> None:
    expected = [
        (item.key, name, right)
        for item in fixed_records()
        for name, right in counts(item.by_protocol)
    ]
    rows = [*zip(frame["key"], frame["protocol"], frame["right"], strict=True)]
    assert rows[:-1] == expected
    assert rows[-1][0] == f"{90:016x}" and pd.isna(rows[-1][1]) and pd.isna(rows[-1][2])


def counts(text: str) -> list[tuple[str, int]]:
    return [*json.loads(text).items()]


def test_columns_are_typed_and_exact(frame: pd.DataFrame) -> None:
    assert frame["right"].dtype == frame["steps"].dtype == frame["n"].dtype == "Int64"
    assert (frame["lr"].dtype, frame["separable"].dtype) == ("Float64", "boolean")
    assert isinstance(frame["model"].dtype, pd.StringDtype)
    assert isinstance(frame["time"].dtype, pd.DatetimeTZDtype)
    assert set(frame["eps"]) >= {Fraction(8, 255), Fraction(3, 20), Fraction(1, 170)}
    shares = frame.groupby("protocol")["right"].sum() / frame.groupby("protocol")["n"].sum()
    total = sum(dict(counts(item.by_protocol)).get("transfer", 0) for item in fixed_records())
    images = sum(item.n for item in fixed_records() if "transfer" in item.protocol_counts)
    assert shares["transfer"] == total / images


def test_the_file_itself_will_do_and_what_is_not_there_is_named(tmp_path: Path) -> None:
    results_csv.append(tmp_path, record(1))
    whole = dentbench.read_results(tmp_path)
    pd.testing.assert_frame_equal(whole, dentbench.read_results(tmp_path / "results.csv"))
    with pytest.raises(StoreError, match="there is no results folder or file"):
        dentbench.read_results(tmp_path / "elsewhere")


def test_a_frame_has_a_row_for_every_record() -> None:
    frame = by_record(fixed_records())
    assert [*frame["robust_correct"]] == [item.robust_correct for item in fixed_records()]
    assert frame["steps"].isna().tolist() == [item.steps is None for item in fixed_records()]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("n>=512", lambda item: item.n >= 512),
        ("n != 512", lambda entry: entry.n != 512),
        (
            "eps<=1.5/255",
            lambda record: (
                Fraction(record.eps.split("/")[0]) / 255 <= Fraction(3, 510)
                if "/" in record.eps
                else False
            ),
        ),
        ("lr<0.01", lambda one: one.lr is not None and one.lr < 0.01),
        ("steps!=6", lambda one: one.steps != 6),
        ("steps=", lambda one: one.steps is None),
        ("time<2026-11-22T08:05", lambda one: one.time < "2026-11-22T08:05"),
        ("separable=false", lambda one: not one.separable),
    ],
)
def test_conditions_choose_what_a_loop_chooses(text: str, rule: object) -> None:
    assert callable(rule)
    records = [record for record in fixed_records() if record.norm == "Linf"]
    expected = [record for record in records if rule(record)]
    assert 0 < len(expected) < len(records)
    assert where(records, [text]) == expected
