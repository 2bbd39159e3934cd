"""The accuracy that is called published is that of the protocol that a defense declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dentbench.defenses.catalogue import DEFENSES
from dentbench.defenses.naming import built_in
from dentbench.records.outcome import Record
from dentbench.report import departures
from dentbench.report.charts import accuracies, protocols
from dentbench.report.numbers import Share
from dentbench.report.pairing import Pair
from dentbench.report.table import Table
from dentbench.report.tables import records as tables
from dentbench.report.tables.defenses import beside
from dentbench.report.tables.protocols import protocols as protocol_table
from dentbench.report.verdict import verdict

Make = Callable[..., Record]
COUNTS = {"published": 380, "transfer": 340}
HEDGE = {"defense": "hedge", "mode": "other", "steps": 20, "published_protocol": "transfer"}


def pair(make: Make, counts: dict[str, int] = COUNTS, **changes: Any) -> Pair:
    common = {"n": 512, "count": 512}
    static = make(1, 500, {"published": 300}, **common)
    change = min(counts.values()) - 300
    gained, lost = max(change, 0) + 10, max(-change, 0) + 10
    defended = make(2, 490, counts, **common, **HEDGE | changes, gained=gained, lost=lost)
    return Pair(static, defended, verdict(static, defended))


def words(table: Table) -> set[str]:
    return {cell.text for row in table.rows for cell in row}


def test_a_verdict_calls_it_published_and_names_it(make_record: Make) -> None:
    counts = {"published": 380, "transfer": 440, "warm": 330}
    actual = pair(make_record, counts)
    text = "hedge's published (transfer) 85.9% (440/512) falls to 64.5% (330/512) under warm"
    assert text in actual.verdict.sentence
    plain = pair(make_record, counts, published_protocol=None)  # a record of an older version
    assert "hedge's published 74.2% (380/512) falls to 64.5%" in plain.verdict.sentence
    alone = pair(make_record, {"transfer": 440}).verdict
    assert "has 85.9% (440/512) under the published protocol (transfer) alone" in alone.sentence
    assert "only the published protocol (transfer) was run" in alone.doubts[1] + alone.doubts[0]


def test_charts_and_tables_name_it(make_record: Make) -> None:
    actual = pair(make_record)
    bars = {bar.label: bar for bar in accuracies(actual).bars}
    assert bars["hedge, published (transfer)"].share == Share(340, 512)
    roles = {bar.label: bar.role for bar in protocols(actual).bars}
    assert roles["transfer"] == "published" and roles["published"] == "other"
    summary = words(tables.summary(actual.static, actual.defended))
    assert "hedge, transfer (published)" in summary
    assert "transfer (published)" in words(protocol_table([actual.static, actual.defended]))


def test_the_column_is_there_where_defenses_differ(make_record: Make) -> None:
    for protocol, shown in (("transfer", True), ("published", False)):
        actual = pair(make_record, published_protocol=protocol)
        for table in (
            beside(actual.static, [actual.defended]),
            tables.all_records([actual.static, actual.defended]),
        ):
            names = [column.title for column in table.columns]
            assert ("published protocol" in names) is shown
            if shown:
                place = names.index("published protocol")
                cells = [row[place].value for row in table.rows]
                assert cells == [None, "transfer"]


def test_built_in_defenses_declare_theirs() -> None:
    declared = {name: card.published_protocol for name, card in DEFENSES.items()}
    assert declared["dent"] == "published" and declared["hedge"] == "transfer"
    assert built_in("hedge").published_protocol == "transfer"
    assert built_in("tent-online").published_protocol == "published"


def test_a_users_attack_and_protocol_are_called_without_the_hash_of_their_source(
    make_record: Make,
) -> None:
    first, second = (f"mine:halfway@{digit * 20}" for digit in "ab")
    counts = {"published": 380, first: 340, "claimed@0123456789ab": 390}
    fgsm = f"mine:fgsm@{'c' * 12}"
    attack = {"attack": fgsm, "attack_label": f"{fgsm}, not AutoAttack"}
    sides = pair(make_record, counts, published_protocol="published", **attack)
    said = sides.verdict.sentence
    assert "under mine:halfway (mine:fgsm, not AutoAttack)" in said and "@" not in said
    labels = [bar.label for bar in protocols(sides).bars]
    assert labels == ["published", "mine:halfway", "claimed@0123456789ab", "worst case"]
    assert "hedge, mine:halfway" in words(tables.summary(sides.static, sides.defended))
    both = pair(make_record, {**counts, second: 350}).defended
    assert departures.called_protocol(both, first) == first, "two of one name are told apart"
