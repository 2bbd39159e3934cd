"""The table of other batches and malicious batch mates, and the worst case per batch."""

from __future__ import annotations

import json
from collections.abc import Callable

from dentbench.records.outcome import Record
from dentbench.report.formats.render import render
from dentbench.report.tables import records as tables
from tests.report.fixed_records import DENT, coupled

Make = Callable[..., Record]


def test_the_cost_of_the_whole_is_told_beside_that_of_published(make_record: Make) -> None:
    static = make_record(1, 99, {"published": 50}, n=100)
    passes = {"natural": 100, "published": 100_000, "batch-mates": 40_000}
    run = coupled(make_record, passes=json.dumps(passes))
    text = render(tables.summary(static, run), "markdown")
    assert "140,100 passes of one image, 1.40 times those of published." in text


def test_the_queries_of_black_boxes_are_told(make_record: Make) -> None:
    run = make_record(2, 98, {"published": 80, "decision": 70}, **DENT, decision_queries=1500)
    assert "(1,500 queries)" in render(tables.protocols([run]), "markdown")


def test_every_composition_and_share_has_a_row(make_record: Make) -> None:
    plain = make_record(3, 98, {"published": 80}, n=100)
    table = tables.batch_mates([plain, coupled(make_record)])
    rows = [[cell.text for cell in row[3:]] for row in table.rows]
    assert rows == [
        ["declared", "98.0% (98/100)", "60.0% (60/100)", "50.2-69.1", "", ""],
        ["shuffled", "97.0% (97/100)", "55.0% (55/100)", "45.2-64.4", "2", "4"],
        ["alone", "10.0% (10/100)", "9.0% (9/100)", "4.8-16.2", "88", "1"],
        ["5% malicious (5)", "98.9% (94/95)", "20.0% (19/95)", "13.2-29.1", "", ""],
    ]
    assert table.rows[3][3].notes == (
        "natural accuracy of the unperturbed images, before and after their mates attack",
    )
    assert tables.batch_mates([coupled(make_record)], {"another"}).rows == ()
    assert "no attack broke those" in render(table, "markdown")


def test_the_worst_of_every_batch_stands_beside_the_worst_of_every_image(make_record: Make) -> None:
    static = make_record(1, 99, {"published": 50}, n=100)
    two_batches = coupled(make_record, batch_size=50)
    text = render(tables.summary(static, two_batches), "markdown")
    (per_batch,) = [line for line in text.splitlines() if "dent, worst per batch" in line]
    assert "56.0% (56/100)" in per_batch and "+6.0" in per_batch
    assert "as one attacker of the batch would choose" in text
    listed = tables.protocols([static, coupled(make_record, batch_size=50)])
    assert "worst per batch" in [row[2].text for row in listed.rows]
    alone = coupled(make_record, batch_worst_correct=None)
    assert "per batch" not in render(tables.summary(static, alone), "markdown")
