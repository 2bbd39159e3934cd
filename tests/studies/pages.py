"""The tables and the page that ``dentbench report`` renders from the committed results.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from dentbench.cli import app
from tests.studies import blur_page, calibration_page, claims_page, decided_page, gain_page

RESULTS: Final = Path("results")
TABLES: Final = RESULTS / "tables"

PAGES: Final = {
    "all.md": ("--table", "all", "--format", "markdown"),
    "protocols.md": ("--table", "protocols", "--format", "markdown"),
    "table1.md": ("--table", "1", "--format", "markdown"),
    "table2.md": ("--table", "2", "--format", "markdown"),
    "all.tex": ("--table", "all", "--format", "latex"),
    "index.html": ("--format", "html"),
}
"""By file name, the options of the report."""

READINGS: Final = (gain_page, blur_page, calibration_page, claims_page, decided_page)
"""The pages that report the records of a study in words."""


def render(name: str, out: Path, results: Path = RESULTS) -> None:
    """Write a page into ``out``; raises AssertionError with the report's words where it fails."""
    command = ["report", "--results", str(results), *PAGES[name], "--out", str(out)]
    done = CliRunner().invoke(app.app, command)
    assert done.exit_code == 0, done.output


def render_all(results: Path = RESULTS, tables: Path = TABLES) -> None:
    """Write every page."""
    tables.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        render(name, tables / name, results)
    for page in READINGS:
        (results / page.NAME).write_text(page.text(results))
