"""Which static record a defended one stands beside, against slow loops over all records."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dentbench.errors import SpecError
from dentbench.records.outcome import Record
from dentbench.report.pairing import IMAGES, best_statics, pair_up
from dentbench.report.tables.cells import best
from dentbench.report.tables.compare import IDENTITY, compare
from dentbench.report.verdict import verdict
from tests.report.fixed_records import DENT, make


def of_images(record: Record) -> tuple[object, ...]:
    return tuple(getattr(record, name) for name in IMAGES)


def packing(record: Record) -> tuple[object, ...]:
    return record.batch_size, record.batching, record.seed


def slow_pairs(records: Sequence[Record]) -> list[tuple[Record, Record]]:
    pairs = []
    for defended in records:
        alike = [
            record
            for record in records
            if record.mode == "static" != defended.mode and of_images(record) == of_images(defended)
        ]
        same = [item for item in alike if packing(item) == packing(defended)]
        for static in reversed([*alike, *same]):
            try:
                verdict(static, defended)
            except SpecError:
                continue
            pairs.append((static, defended))
            break
    return pairs


def mixed(seed: int) -> list[Record]:
    """Forty records that share images, attacks, packings and counts with some of the others."""
    draw = random.Random(seed)
    records = []
    for number in range(40):
        static = draw.random() < 0.5
        robust = draw.choice([40, 41])
        changes = {
            "eps": draw.choice(["8/255", "0.5"]),
            "iterations": draw.choice([None, 5]),
            "model_code": draw.choice([None, "cd" * 32]),
            "batch_size": draw.choice([16, 128]),
            "seed": draw.choice([0, 1]),
            "static_by_protocol": None if static else f'{{"published": {robust}}}',
            "static_correct": None if static else robust,
        }
        if not static:
            changes |= {**DENT, "gained": 3, "lost": 3}
        records.append(replace(make(number, 60, {"published": robust}), **changes))
    return records


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_a_loop(seed: int) -> None:
    records = mixed(seed)
    expected = slow_pairs(records)
    actual = [(pair.static, pair.defended) for pair in pair_up(records)]
    assert len(expected) > 5
    assert [(record.key, two.key) for record, two in actual] == [
        (a.key, b.key) for a, b in expected
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_static_record_is_that_of_a_loop(seed: int) -> None:
    records = mixed(seed)
    records[::3] = [
        replace(record, n=record.n + number % 2) for number, record in enumerate(records[::3])
    ]
    actual = best_statics(records)
    for defended in records:
        alike = [
            record for record in records if record.mode == "static" and defended.mode != "static"
        ]
        alike = [item for item in alike if of_images(item) == of_images(defended)]
        assert actual.get(id(defended)) == best(alike)


@pytest.mark.parametrize("seed", range(3))
def test_runs_of_two_files_are_matched_as_by_a_loop(seed: int) -> None:
    before, after = mixed(seed), mixed(seed + 1)[:20]
    before = [*before, replace(before[0], model="Another")]

    def by_run(records: Sequence[Record]) -> dict[tuple[object, ...], Record]:
        return {tuple(getattr(record, name) for name in IDENTITY): record for record in records}

    old, new = by_run(before), by_run(after)
    both = [run for run in old if run in new]
    table = compare(before, after, (Path("old.csv"), Path("new.csv")))
    cells = sum(1 + len(old[run].protocol_counts) for run in both)
    assert 0 < len(both) < len(old)
    assert f"of {cells} cells of {len(both)} runs" in table.caption
    alone = [note for note in table.notes if note.startswith("Only in old.csv")]
    assert alone[0].count(";") + 1 == len(old) - len(both)


def test_there_may_be_nothing_to_pair() -> None:
    static, defended = make(1, 60, {"published": 40}), make(2, 60, {"published": 40}, **DENT)
    for records in ([], [static], [defended]):
        assert pair_up(records) == [] and best_statics(records) == {}
    assert compare([], [], (Path("a"), Path("b"))).rows == ()
