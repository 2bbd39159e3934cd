"""``dentbench board``: every row of a study is one evaluation; the page follows each."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from dentbench.cli.board import board, command_of, rows
from dentbench.defenses.catalogue import DEFENSES, NONE
from dentbench.errors import NOT_GAINED, SpecError
from dentbench.report import board as page

STUDY = """
attack = "quick"
iterations = 1
protocol = ["published", "transfer"]

[[model]]
model = "digits-robust"
examples = 4

[[model]]
model = "digits-nominal"

[[defense]]
defense = "bit-depth"

[[defense]]
defense = "dent"
mode = "batch"
offline = true
force = false
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(STUDY)
    return path


SHARED = ["--attack", "quick", "--iterations", "1"]
SHARED += ["--protocol", "published", "--protocol", "transfer"]
EXPECTED = [
    [*SHARED, *f"--model digits-{model} {defense}".split()]
    for model in ("robust --examples 4", "nominal")
    for defense in ("--defense bit-depth", "--defense dent --mode batch --offline")
]


def test_rows_are_all_defenses_on_a_model_then_the_next(study: Path) -> None:
    assert rows(study) == EXPECTED


class Commands:
    """Stands for the command line: keeps its arguments, and ends as asked."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.seen: list[list[str]] = []

    def __call__(self, *, args: list[str], prog_name: str, obj: int, standalone_mode: bool) -> None:
        assert (prog_name, obj, standalone_mode) == ("dentbench", 0, False)
        self.seen.append(args)
        raise SystemExit(self.codes.pop(0))


def context(commands: Commands, *more: str) -> Any:
    return SimpleNamespace(args=[*more], find_root=lambda: SimpleNamespace(command=commands))


def test_every_row_is_evaluated_and_the_page_written_after_each(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    commands = Commands(0, NOT_GAINED, 0, 2)
    monkeypatch.setattr(page, "write_board", lambda *_: written.append(len(commands.seen)))
    with pytest.raises(typer.Exit) as stopped:
        board(context(commands, "--seed", "1"), study, tmp_path)
    assert stopped.value.exit_code == 2
    tail = ["--seed", "1", "--results", str(tmp_path), "--quiet"]
    assert commands.seen == [["evaluate", *row, *tail] for row in EXPECTED]
    assert written == [1, 2, 3], "a row that fails ends the command; those before stay"


def test_render_runs_nothing(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Any, ...]] = []
    monkeypatch.setattr(page, "write_board", lambda *own: written.append(own))
    commands = Commands()
    board(context(commands), study, tmp_path, render=True)
    assert not commands.seen and written == [
        (tmp_path, study.as_posix(), command_of(study, tmp_path))
    ]
    with pytest.raises(SpecError, match="--examples 8 given beside --render"):
        board(context(commands, "--examples", "8"), study, tmp_path, render=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[defense]]\ndefense = "et3"\n', r"no tables \[\[model\]\]"),
        ('[[model]]\nmodel = "m"\n', r"no tables \[\[defense\]\]"),
        ('[[model]]\nexamples = 3\n[[defense]]\ndefense = "et3"\n', "does not say model"),
        ('model = "m"\n[[defense]]\ndefense = "et3"\n', r"no tables \[\[model\]\]"),
    ],
)
def test_a_file_that_is_no_study_of_a_board_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(SpecError, match=words):
        rows(tmp_path / "odd.toml")


def test_the_committed_study_names_every_built_in_defense() -> None:
    committed = Path(__file__).parents[2] / "results" / "board" / "board.toml"
    named = set()
    for row in rows(committed):
        name = row[row.index("--defense") + 1]
        run = {value for option, value in pairwise(row) if option == "--protocol"}
        assert DEFENSES[name].published_protocol in run, name
        named.add(name)
    assert named == set(DEFENSES) - {NONE}, "give each a table [[defense]] in board.toml"
