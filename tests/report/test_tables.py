"""Which records stand where in the tables, and what marks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from dentbench import paper as published
from dentbench.paper import ABLATION_THREATS, README, TABLE1, TABLE2, PairedRow, PairedTable
from dentbench.records.outcome import Record
from dentbench.report import departures
from dentbench.report.formats.render import render
from dentbench.report.table import Table
from dentbench.report.tables import layout
from dentbench.report.tables import records as tables
from dentbench.report.tables.ablation import NO, YES, grid
from dentbench.spec.dent import BLUR_DEFAULTS, MODE_DEFAULTS
from dentbench.spec.evaluation import ProtocolSpec
from tests.report.fixed_records import DENT

Make = Callable[..., Record]
COUNTS = {"published": 8230, "transfer": 5963}


def lookup(model: str, mode: str, table: PairedTable = TABLE1) -> PairedRow | None:
    """The published row of a model in a mode."""
    return next((row for row in table.rows if (row.model, row.mode) == (model, mode)), None)


def rows_of(table: Table, model: str, label: str) -> list[list[str]]:
    """Return the texts, marks expanded, of the rows of a model with a label in column "row"."""
    at = [column.title for column in table.columns].index("row")
    return [
        [cell.text + "".join(f" [{note}]" for note in cell.notes) for cell in row[at + 1 :]]
        for row in table.rows
        if row[at - 1].text == model and row[at].text == label
    ]


def test_published_numbers_are_the_sources() -> None:
    assert lookup("Ding2020MMA", "batch") == TABLE1.rows[1]
    assert TABLE1.rows[1].adversarial_dent == 47.6
    assert lookup("Ding2020MMA", "instance", README) == README.rows[6]
    assert lookup("Ding2020MMA", "batch", README) is None and lookup("x", "instance") is None
    assert (len(TABLE1.rows), len(README.rows), len(TABLE2)) == (4, 7, 6)
    for row in TABLE1.rows:  # the README's numbers round to the paper's
        other = lookup(row.model, row.mode, README)
        if other is not None:
            for name in ("natural_static", "natural_dent", "adversarial_static"):
                assert abs(getattr(row, name) - getattr(other, name)) <= 0.0501
    assert "2105.08714" in TABLE1.source and "263b6b1" in README.source
    assert "architecture is not established" in published.TABLE2_SOURCE


def test_a_matching_record_stands_beside_the_published_one(make_record: Make) -> None:
    table = tables.table1(
        [make_record(1, 8969, {"published": 5950}), make_record(2, 8931, COUNTS, **DENT)]
    )
    model = "Carmon2019Unlabeled"
    assert rows_of(table, model, "ours")[1] == [
        "89.7% (8969/10000)",
        "89.3% (8931/10000)",
        "59.5% (5950/10000)",
        "82.3% (8230/10000)",
        "59.6% (5963/10000)",
    ]
    assert rows_of(table, model, "difference")[-1] == ["0.0", "0.0", "0.0", "0.0", ""]
    assert rows_of(table, model, "published")[1] == ["89.7%", "89.3%", "59.5%", "82.3%", ""]
    assert rows_of(table, "Ding2020MMA", "ours") == [["not run"] * 5] * 2
    assert any("not a RobustBench number" in note for note in table.notes)


@pytest.mark.parametrize(
    ("changes", "mark"),
    [
        (
            {"dataset": "CIFAR-10 (JPEG copy)"},
            "not CIFAR-10 but CIFAR-10 (JPEG copy); 10,000 images",
        ),
        ({"attack": "quick", "attack_label": "quick: x (not AutoAttack)"}, "quick, not AutoAttack"),
        (
            {
                "iterations": 10,
                "attack_label": "AutoAttack standard with iterations 10 (not AutoAttack)",
            },
            "shortened standard, not AutoAttack",
        ),
        (
            {"attack": "plus", "attack_label": "AutoAttack plus"},
            "AutoAttack plus, not AutoAttack standard",
        ),
        ({"lr": 0.02}, "lr 0.02"),
        ({"loss": "entropy", "batch_size": 64}, "loss entropy, batches of 64"),
    ],
)
def test_another_setting_never_stands_beside_it(
    make_record: Make, changes: dict[str, Any], mark: str
) -> None:
    table = tables.table1([make_record(2, 8931, COUNTS, **{**DENT, **changes})])
    ours = rows_of(table, "Carmon2019Unlabeled", "ours")
    assert ours[:2] == [["not run"] * 5] * 2  # batch-wise, instance-wise
    assert ours[2][3] == f"82.3% (8230/10000) [{mark}]"
    assert ours[2][4] == f"59.6% (5963/10000) [{mark}]"
    assert not rows_of(table, "Carmon2019Unlabeled", "difference")
    assert table.rows[-1][1].notes == (mark,)


def test_fewer_images_stand_beside_it_marked(make_record: Make) -> None:
    few = {"n": 128, "count": 128}
    record = make_record(2, 109, {"published": 82, "transfer": 54}, **DENT, **few)
    table = tables.table1([record])
    for label in ("ours", "95% interval", "difference"):
        cells = rows_of(table, "Carmon2019Unlabeled", label)[-1]
        assert all("[128 of 10,000 images]" in cells[place] for place in (1, 3))


def test_more_images_then_more_protocols_then_the_latest_wins(make_record: Make) -> None:
    few = make_record(1, 100, {"published": 80, "transfer": 70, "x": 60}, **DENT, n=128)
    first = make_record(2, 8000, {"published": 7000}, **DENT)
    second = make_record(3, 8100, {"published": 7000, "transfer": 5000}, **DENT)
    late = replace(second, natural_correct=8200)
    for records, natural in (
        ([few], "78.1%"),
        ([first, few], "80.0%"),
        ([second, first, few], "81.0%"),
        ([second, late, few], "82.0%"),
    ):
        ours = rows_of(tables.table1(records), "Carmon2019Unlabeled", "ours")[1]
        assert ours[1].startswith(natural)


def test_static_is_the_one_of_the_same_images(make_record: Make) -> None:
    other = {"data_sha256": "0" * 64}
    records = [
        make_record(1, 9000, {"published": 6000}),
        make_record(2, 8000, {"published": 5000}, **other),
        make_record(3, 8931, COUNTS, **DENT, **other),
    ]
    ours = rows_of(tables.table1(records), "Carmon2019Unlabeled", "ours")
    assert ours[1][0].startswith("80.0%")


def test_a_worst_case_needs_more_than_the_published_protocol(make_record: Make) -> None:
    table = tables.table1([make_record(2, 8931, {"published": 8230}, **DENT)])
    assert rows_of(table, "Carmon2019Unlabeled", "ours")[1][3:] == ["82.3% (8230/10000)", "not run"]
    table = tables.table1([make_record(2, 8931, {"transfer": 8230}, **DENT)])
    assert rows_of(table, "Carmon2019Unlabeled", "ours")[1][3:] == ["not run", "82.3% (8230/10000)"]


def test_declared_batches_are_said_where_they_matter(make_record: Make) -> None:
    def said(**changes: Any) -> bool:
        records = [make_record(2, 8931, COUNTS, **{**DENT, **changes})]
        return any("declared batches" in note for note in tables.table1(records).notes)

    assert said() and not said(batching="autoattack") and not said(separable=True)


def test_readme_takes_only_its_own_models(make_record: Make) -> None:
    records = [make_record(1, 505, COUNTS, **DENT, model="mine"), make_record(2, 1, COUNTS, **DENT)]
    assert {row[1].text for row in tables.readme(records).rows} == {
        row.model for row in README.rows
    }
    assert "mine" in {row[1].text for row in tables.table1(records).rows}
    only = tables.readme(records, ["Ding2020MMA"])
    assert {row[1].text for row in only.rows} == {"Ding2020MMA"}


def ablation(table: Table, *stub: str) -> dict[str, list[str]]:
    """Return the texts of a row of Table 2, by the name of the line."""
    at = len(stub)
    return {
        row[at].text: [cell.text for cell in row[at + 1 :]]
        for row in table.rows
        if tuple(cell.text for cell in row[:at]) == stub
    }


def test_table2_rows(records: list[Record]) -> None:
    table = tables.table2(records)
    none = ablation(table, NO, "none", "0")
    assert none["AutoAttackResNet18"] == ["1.0x", "93.8% (60/64)", "4.7% (3/64)", "7.8% (5/64)"]
    assert none["published"] == ["1.0x", "95.6%", "8.8%", "9.2%"]
    blurred = ablation(table, NO, "static", "0")
    assert blurred["AutoAttackResNet18"] == ["1.0x", "81.3% (52/64)", "31.3% (20/64)", "not run"]
    dynamic = ablation(table, YES, "dynamic", "10")
    assert dynamic["AutoAttackResNet18"][:3] == ["25.9x", "90.6% (58/64)", "46.9% (30/64)"]
    assert dynamic["worst case"][2] == "18.8% (12/64)"
    assert ablation(table, YES, "static", "10")["ours"] == ["not run"] * 4
    assert not rows_of(table, "1", "difference")


def test_table2_marks_what_is_not_the_papers(records: list[Record]) -> None:
    table = tables.table2(records)
    models = {row[3].text for row in table.rows}
    assert "digits-robust" not in models and "AutoAttackResNet18" in models
    assert "digits-nominal" not in models  # it was run at another eps
    paper = next(row for row in table.rows if row[3].text == "published")
    assert paper[3].notes == ("another model, on the CIFAR-10 test set",)


def test_table2_takes_the_default_settings_before_later_ones(records: list[Record]) -> None:
    other = [record for record in records if record.blur != "dynamic" or record.sigma == 2.0]
    row = ablation(tables.table2(other), YES, "dynamic", "10")
    assert row["AutoAttackResNet18"][1] == "89.1% (57/64)"
    first = next(row for row in tables.table2(other).rows if row[1].text == "dynamic")
    assert first[5].notes == ("sigma 2.0; 64 of 10,000 images",)


def test_table2_of_other_threats_names_them(records: list[Record]) -> None:
    threats = [("Linf", Fraction("0.15")), ("L2", Fraction("0.7"))]
    table = tables.table2(records, ["digits-nominal"], threats=threats, run_only=True)
    assert [column.title for column in table.columns[-2:]] == ["Linf 0.15", "L2 0.7"]
    assert {row[2].text for row in table.rows} == {"0", "1"}
    paper = table.rows[-1]
    assert [paper[-3].text, paper[-2].text, paper[-1].text] == ["95.6%", "", ""]


def test_a_grid_has_every_setting_once(records: list[Record]) -> None:
    nominal = [record for record in records if record.model == "AutoAttackResNet18"]
    table = grid(nominal, ABLATION_THREATS)
    stubs = list(dict.fromkeys(tuple(cell.text for cell in row[:4]) for row in table.rows))
    assert stubs == [
        (NO, "none", "0", ""),
        (YES, "none", "1", ""),
        (NO, "static", "0", ""),
        (YES, "dynamic", "10", ""),
        (YES, "dynamic", "10", "sigma 2.0"),
    ]
    actual = ablation(table, *stubs[0])
    assert actual["ours"] == ["1.0x", "93.8% (60/64)", "4.7% (3/64)", "7.8% (5/64)"]
    assert actual["95% interval"][1:] == ["85.0-97.5", "1.6-12.9", "3.4-17.0"]
    assert "worst case" in ablation(table, *stubs[3]) and "worst case" not in actual
    assert not any(cell.notes for row in table.rows for cell in row)


def test_all_records_has_every_record_once(records: list[Record]) -> None:
    table = tables.all_records(records)
    assert len(table.rows) == len(records)
    few = tables.all_records(records, ["digits-robust"])
    assert [row[6].text for row in few.rows] == ["static", "instance"]
    assert few.rows[1][-2].text == "no gain"
    assert tables.all_records([]).rows == ()


def test_settings_are_told_apart(make_record: Make) -> None:
    assert departures.settings_text(make_record(1, 1, COUNTS, batch_size=7)) == ""
    batch = {**DENT, "mode": "batch", **MODE_DEFAULTS["batch"]}
    assert departures.settings_text(make_record(1, 1, COUNTS, **batch)) == ""
    blurred = {**batch, "blur": "static", **BLUR_DEFAULTS["static"], "sigma": 2.0}
    assert (
        departures.settings_text(make_record(1, 1, COUNTS, **blurred)) == "blur static, sigma 2.0"
    )
    assert departures.slot_text(make_record(1, 1, COUNTS, **blurred)) == "sigma 2.0"
    none = {**batch, "steps": 0, "delta": "none", "loss": "shot", "lr": 0.5}
    assert departures.settings_text(make_record(1, 1, COUNTS, **none)) == ""
    sorted_ = make_record(1, 1, COUNTS, **batch, order="label-windows:256")
    assert departures.settings_text(sorted_) == "order label-windows:256"
    assert not departures.comparable(sorted_, "Linf", Fraction(8, 255))
    cold = ProtocolSpec(cascade=False, rounds=5, fractions=(0.01, 0.5))
    own = make_record(1, 1, COUNTS, **batch, protocol_settings=cold.settings_json)
    assert departures.protocols_text(own) == "no cascade, rounds 5, fractions 0.01 0.5"
    assert departures.whole_text(own) == f"protocols: {departures.protocols_text(own)}"
    assert departures.settings_text(own) == "", "it changes no published number"
    for table in (tables.all_records([own]), tables.summary(make_record(2, 1, COUNTS), own)):
        assert "no cascade, rounds 5" in render(table, "markdown")
    plain = make_record(1, 1, COUNTS, **batch, protocol_settings=ProtocolSpec().settings_json)
    assert departures.whole_text(plain) == ""
    changed = {**batch, "statistics": "mix:0.3", "optimizer": "sgd"}
    assert departures.settings_text(make_record(1, 1, COUNTS, **changed)) == (
        "statistics mix:0.3, optimizer sgd"
    )


# --- the paper's layout -----------------------------------------------------------------------


def titles(result: Sequence[Table]) -> list[str]:
    return [table.title for table in result]


def test_a_number_stands_under_its_own_eps(records: list[Record]) -> None:
    """Whatever was run at another eps than the paper's has a table, and a heading, of its own."""
    first, *others = layout.table1s(records)
    assert "Linf 8/255" in first.title and titles(others) == [
        "Dent and its static models, Linf 0.15, not the paper's (in the layout of paper, Table 1)"
    ]
    models = [{row[1].text for row in table.rows} for table in (first, *others)]
    assert "digits-robust" not in models[0] and "digits-robust" in models[1]
    assert not models[0] & models[1]
    own, digits = layout.table2s(records)
    heads = [[column.title for column in table.columns[6:]] for table in (own, digits)]
    assert heads == [["Linf 1.5/255", "L2 0.2"], ["Linf 0.15"]]
    names = {row[3].text for row in digits.rows}
    assert names == {"digits-nominal", "95% interval", "published"}


def test_rows_that_were_not_run_come_on_request(records: list[Record]) -> None:
    chosen = [record for record in records if record.model == "Ding2020MMA"]
    (table,) = layout.table1s(chosen)
    assert {row[1].text for row in table.rows} == {"Ding2020MMA"}
    (whole,) = layout.table1s(chosen, not_run=True)
    assert {row[1].text for row in whole.rows} == {"Ding2020MMA", "Carmon2019Unlabeled"}
    assert layout.table2s(chosen) == [] and len(layout.table2s(chosen, not_run=True)) == 1


def test_both_groups_of_table_1_are_in_one_piece(records: list[Record]) -> None:
    (table, *_) = layout.table1s(records, not_run=True)
    modes = [row[0].text for row in table.rows]
    assert modes == sorted(modes) and len(set(modes)) == 2


def test_every_record_is_laid_out_once(records: list[Record], make_record: Make) -> None:
    """In the paper's tables or with the rest, and every defended one with its verdict."""
    rest = make_record(40, 8931, COUNTS, **{**DENT, "steps": 3}, model="other")
    actual = layout.laid_out([*records, rest])
    names = titles(actual)
    assert names[-2:] == ["Verdicts", "All records"]
    assert {row[0].text for row in actual[-1].rows} == {"other"}
    assert "table 1" in " ".join(names).lower() and "Table 2" in " ".join(names)
    judged = [record for record in records if record.mode != "static"]
    assert len(actual[-2].rows) == len(judged)
