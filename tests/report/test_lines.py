"""Paths and commands stay whole wherever the output goes, however narrow it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dentbench.cli import showing
from dentbench.report.formats.terminal import print_prose
from tests.report.fixed_records import fixed_records

DEEP = "/tmp/" + "a-long-name-of-a-folder/" * 8 + "end"
SPACED = "/tmp/my results of today " + "and more of them " * 6


@pytest.mark.parametrize("folder", [DEEP, SPACED])
def test_where_the_records_are_is_one_line(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    console: Any = Console(file=text, width=80)
    showing._where(Path(folder), console, fixed_records()[:2])
    lines = text.getvalue().splitlines()
    assert any(f"Records: {folder}/results.csv, keys" in line for line in lines)
    assert len([line for line in lines if line]) == 2


def test_prose_is_broken_between_words_alone() -> None:
    text = io.StringIO()
    sentence = f"Natural accuracy is far below what is known; look into {DEEP} and --normalize."
    print_prose(sentence, Console(file=text, width=60))
    assert text.getvalue().split() == sentence.split()
    assert max(len(line) for line in text.getvalue().splitlines() if DEEP not in line) <= 60
