"""The README's pictures: a terminal's lines are read as a terminal shows them, and drawn whole."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from rich.progress import Progress

from dentbench.attacks.attack_events import AttackBegan
from dentbench.evaluation.progress.bars import Bars, columns
from dentbench.evaluation.progress.events import BatchDone, PassesDone, Stage, StageBegan, Whole
from dentbench.records import results_csv
from tests.helpers import record
from tests.pictures.__main__ import OUT, PICTURES, TERMINAL
from tests.pictures.terminal import COLUMNS, ROOT, picture, screen, typed

PLAIN = re.compile(r"\x1b\[[0-9;]*m")


def texts(drawn: str) -> list[str]:
    """The texts of an SVG; one that is no XML fails."""
    names = ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(name.itertext()).replace("\xa0", " ") for name in names]


def test_lines_that_a_live_display_wrote_again_are_there_once() -> None:
    text = io.StringIO()
    console = Console(file=text, width=COLUMNS, force_terminal=True, no_color=True)
    with Progress(*columns(), console=console, auto_refresh=False) as bars:
        shown = Bars(bars, Whole())
        for stage in ("natural", "published"):
            toy = Stage(model="toy", defense="static", protocol=stage)
            shown(StageBegan(stage=toy, passes=1000))
            for done in (1, 2, 3):
                shown(AttackBegan(attack="apgd-ce", left=4 - done, images=4))
                shown(PassesDone(passes=100 * done))
                bars.refresh()
                shown(BatchDone(done=done, batches=3, right=done, images=2 * done))
    console.print("the end")
    lines = [PLAIN.sub("", line).split() for line in screen(text.getvalue())]
    assert [line[:2] for line in lines] == [
        ["toy"],
        ["static", "natural"],
        ["static", "published"],
        ["the", "end"],
        [],
    ]
    assert "3/3" in lines[1] and "50.0%" in lines[2] and "2/3" not in lines[2]


def test_a_picture_is_what_was_printed_and_loads_nothing(tmp_path: Path) -> None:
    results_csv.append(tmp_path / "results", record(1))
    lines = screen(typed(("report",), tmp_path))
    drawn = picture("dentbench report", lines)
    printed = {word for line in lines for word in PLAIN.sub("", line).split()}
    assert {"digits-robust", "natural"} & printed
    assert printed <= {word for text in texts(drawn) for word in text.split()}
    assert not re.findall(r"@import|@font-face|url\((?!#)|<image|<script|xlink:href", drawn)


def test_a_line_that_is_too_long_goes_on_in_the_next_row() -> None:
    drawn = texts(picture("dentbench", ["x" * (COLUMNS + 3)]))
    assert [text for text in drawn if text.startswith("x")] == ["x" * COLUMNS, "xxx"]


@pytest.mark.parametrize("name", PICTURES)
def test_the_readme_shows_every_picture(name: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"({OUT / name})" in readme and (ROOT / OUT / name).exists()


def test_the_terminal_in_the_readme_is_of_the_command_that_makes_it() -> None:
    actual = texts((ROOT / OUT / "terminal.svg").read_text(encoding="utf-8"))
    assert f"$ dentbench {TERMINAL}" in " ".join(actual)
    examples = shlex.split(TERMINAL)[-1]
    assert any(f"/{examples})" in text for text in actual)
