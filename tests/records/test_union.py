"""Rows of one key add up, whatever order they were written in."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from dentbench.records.outcome import Record
from dentbench.records.union import united
from tests.report.fixed_records import DENT, make

STRONG = make(1, 60, {"published": 40, "transfer": 30, "warm": 20}, **DENT, gained=1, lost=6)
WEAK = replace(
    make(1, 60, {"published": 40, "decision": 38}, **DENT, gained=19, lost=6),
    skipped='{"warm": "not now", "unrolled": "it has none"}',
)
OTHER = make(2, 50, {"published": 10})


def summary(record: Record) -> tuple[Any, ...]:
    return record.robust_correct, record.protocol_counts, record.worst_protocol


def test_a_weaker_row_hides_nothing_in_any_order() -> None:
    for rows in itertools.permutations([STRONG, WEAK, OTHER]):
        actual = {record.key: record for record in united(rows)}
        joined = actual[STRONG.key]
        assert len(actual) == 2 and actual[OTHER.key] is OTHER
        assert joined.robust_correct == 20 and (joined.gained, joined.lost) == (1, 6)
        assert joined.worst_protocol == "warm"
        counts = {"published": 40, "transfer": 30, "warm": 20, "decision": 38}
        assert joined.protocol_counts == counts and set(joined.protocol.split()) == set(counts)
        assert joined.skipped == '{"unrolled": "it has none"}'


def test_a_row_stands_at_the_place_of_its_last_one() -> None:
    assert [record.key for record in united([STRONG, OTHER, WEAK])] == [OTHER.key, STRONG.key]
    assert united([OTHER, STRONG]) == [OTHER, STRONG] and united([]) == []


def test_of_equal_rows_the_last_of_most_protocols_counts() -> None:
    later = replace(STRONG, time="2027-01-01T00:00:00Z")
    assert united([STRONG, later]) == [later]
    fewer = make(1, 60, {"warm": 20}, **DENT)
    assert united([later, fewer]) == [later]


def test_of_a_run_that_went_on_the_rows_of_most_images_count() -> None:
    few = [
        make(1, 30, {"transfer": 15, "warm": 9}, **DENT, n=60, count=200),
        make(1, 25, {"transfer": 12}, **DENT, n=50, count=200),
    ]
    many = make(1, 60, {"transfer": 31}, **DENT, n=120, count=200)
    for rows in ([*few, many], [many, *few]):
        assert united(rows) == [many]


def test_a_row_of_other_code_does_not_count() -> None:
    old = replace(STRONG, stage_versions='{"natural": 1, "published": 1, "transfer": 1}')
    new = replace(WEAK, stage_versions='{"natural": 1, "published": 2}')
    assert united([old, new]) == [new]
    same = replace(old, stage_versions='{"natural": 1, "published": 2, "transfer": 1}')
    (first,) = united([same, new])
    assert first.protocol_counts["transfer"] == 30
