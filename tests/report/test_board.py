"""The board's table: verdicts corrected for their number, costs, and the committed board."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import pytest

from dentbench.cli.board import RESULTS, STUDY, command_of
from dentbench.defenses.catalogue import DEFENSES, NONE
from dentbench.errors import StoreError
from dentbench.records.stopping import Stopped
from dentbench.report import board as page
from dentbench.report.formats.render import render
from dentbench.report.pairing import Pair, pair_up
from dentbench.report.tables import board
from tests.report.fixed_records import fixed_records

COMMITTED = Path(__file__).parents[2] / "results" / "board"


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    records = fixed_records()
    return [pair for pair in pair_up(records) if pair.defended.model == records[0].model]


def judged(pairs: list[Pair], *kinds: tuple[str, float]) -> list[Any]:
    """Pairs of one model with verdicts of these kinds and p-values."""
    record = pairs[0].defended
    return [
        SimpleNamespace(
            static=pairs[0].static,
            defended=record,
            verdict=SimpleNamespace(kind=kind, p_value=p_value, gain_low=-1.0, gain_high=1.0),
        )
        for kind, p_value in kinds
    ]


def test_no_gain_is_corrected_for_how_many_there_are(pairs: list[Pair]) -> None:
    """An interval of +-3 around 1.5 ends at 4.5: z = 3.5 / 3 x 1.96, p = 0.022, and 0.044 of two.

    Of three it is 0.067.
    """
    assert 2 * NormalDist().cdf(-3.5 / 3 * 1.96) == pytest.approx(0.0222, abs=1e-4)
    for number, kind in ((1, "no gain"), (2, "no gain"), (3, "undecided")):
        actual = judged(pairs, *[("no gain", 0.9)] * number)
        for pair in actual:
            pair.verdict.gain_low, pair.verdict.gain_high = -1.5, 4.5
        assert [entry.kind for entry in board.entries(actual)] == [kind] * number


def test_a_look_of_a_run_that_may_stop_asks_more_of_a_p_value(pairs: list[Pair]) -> None:
    (pair,) = judged(pairs, ("holds", 0.02))
    for level, kind in ((0.025, "holds"), (0.009, "undecided")):
        stop = Stopped(rule="decided", images=128, of=512, level=level)
        pair.defended = replace(pair.defended, stopped=stop.to_json())
        assert [entry.kind for entry in board.entries([pair])] == [kind]


@pytest.mark.parametrize(
    ("actual", "kinds"),
    [
        ([("holds", 0.04)], ["holds"]),
        ([("holds", 0.04), ("no gain", 0.9)], ["undecided", "no gain"]),
        ([("holds", 0.02), ("no gain", 0.9)], ["holds", "no gain"]),
        # 0.01 x 3 and 0.024 x 2 count, 0.06 does not.
        (
            [("holds", 0.024), ("weaker than static", 0.01), ("undecided", 0.06)],
            ["holds", "weaker than static", "undecided"],
        ),
        # 0.02 x 3 does not count, so 0.03 does not either, though 0.03 x 1 would.
        (
            [("holds", 0.02), ("holds", 0.024), ("holds", 0.03)],
            ["undecided", "undecided", "undecided"],
        ),
        ([("undecided", 0.001), ("holds", 0.03)], ["undecided", "holds"]),
    ],
)
def test_verdicts_are_corrected_for_how_many_there_are(
    pairs: list[Pair], actual: list[tuple[str, float]], kinds: list[str]
) -> None:
    assert [entry.kind for entry in board.entries(judged(pairs, *actual))] == kinds


def test_models_are_corrected_apart(pairs: list[Pair]) -> None:
    first, other = judged(pairs, ("holds", 0.04), ("holds", 0.04))
    other.defended = replace(other.defended, model="another")
    assert [entry.kind for entry in board.entries([first, other])] == ["holds", "holds"]


def test_a_row_says_what_was_published_what_is_left_and_what_it_costs(pairs: list[Pair]) -> None:
    pair = pairs[0]
    passes = json.dumps({"natural": 3 * pair.defended.n, "published": 12})
    counts = json.dumps({"published": 80, "transfer": 70})
    defended = replace(
        pair.defended,
        defense="et3",
        mode="other",
        passes=passes,
        by_protocol=counts,
        worst_protocol="transfer",
        published_protocol="published",
    )
    table = board.board([replace(pair, defended=defended)])
    titles = [column.full_title for column in table.columns]
    static, row = (
        dict(zip(titles, (cell.text for cell in item), strict=True)) for item in table.rows
    )
    assert (static["defense"], static["cost"], static["verdict"]) == ("static model", "1", "")
    assert (row["defense"], row["own protocol"], row["cost"]) == ("et3", "published", "3")
    share = 100 * 80 / defended.n
    assert row["published accuracy"].startswith(f"{share:.1f}%")
    base = 100 * pair.static.robust_correct / pair.static.n
    assert row["published minus static"] == f"{share - base:+.1f}"
    assert row["worst protocol"] == "transfer"
    assert "arXiv 2603.26984" in row["claim"]
    assert board.cost(replace(defended, passes=None)) == ""
    # A run that stopped early stands beside what the static model has of its images.
    early = replace(defended, n=100, static_by_protocol='{"published": 77}')
    table = board.board([replace(pair, defended=early)])
    assert table.rows[1][titles.index("published minus static")].text == "+3.0"
    assert board.EARLY not in table.notes
    stop = Stopped(rule="decided", images=100, of=500, level=0.005).to_json()
    assert board.EARLY in board.board([replace(pair, defended=replace(early, stopped=stop))]).notes


def test_every_defense_stands_beside_what_its_paper_says(pairs: list[Pair]) -> None:
    for name in DEFENSES:
        actual = board.claim(replace(pairs[0].defended, defense=name))
        assert name == NONE or re.fullmatch(r"\w.* \(.*arXiv \d{4}\.\d{5}\)", actual), name
    assert board.claim(replace(pairs[0].defended, defense="mine:Own")) == ""


def test_files_of_a_board(tmp_path: Path, pairs: list[Pair]) -> None:
    with pytest.raises(StoreError, match="no defended record"):
        page.board_pairs(tmp_path)
    charts = page.board_charts(pairs)
    assert [chart.reference.count for chart in charts if chart.reference] == [
        group[0].static.robust_correct for group in board.by_model(pairs)
    ]
    study, folder = Path("my study.toml"), Path("mine")
    text = page.page(pairs, study.as_posix(), command_of(study, folder))
    assert "\n    dentbench board --study 'my study.toml' --results mine\n" in text
    assert command_of(STUDY, RESULTS) == "dentbench board"
    assert render(board.board(pairs), "markdown") in text
    assert all(f"]({page.file_of(chart)})" in text for chart in charts)


STUDIES = sorted(COMMITTED.rglob("*.toml"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.parent.name)
def test_the_committed_boards_are_what_their_records_give(study: Path) -> None:
    folder, top = study.parent, COMMITTED.parents[1]
    pairs = page.board_pairs(folder)
    command = command_of(study.relative_to(top), folder.relative_to(top))
    expected = page.page(pairs, study.relative_to(top).as_posix(), command)
    assert (folder / page.PAGE).read_text() == expected, f"{command} --render"
    assert (folder / page.TABLE).read_text() == render(board.board(pairs), "csv")
