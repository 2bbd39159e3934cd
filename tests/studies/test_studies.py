"""The committed studies can be run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import typer

from dentbench.cli import app, config
from dentbench.records.results_csv import read
from tests.studies import pages
from tests.studies.reading import of
from tests.studies.studies import FOLDER, STUDIES, Study


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_setting_is_an_option(study: Study) -> None:
    command = typer.main.get_command(app.app).commands[study.runs]  # type: ignore[attr-defined]
    for number in range(len(config.runs(study.config, command.params))):
        config.apply(command.context_class(command, obj=number), study.config)


def test_every_config_is_a_study() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.toml")) == sorted(s.name for s in STUDIES)


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_committed_tables_are_what_report_renders(name: str, tmp_path: Path) -> None:
    pages.render(name, tmp_path / name)
    committed = pages.TABLES / name
    assert committed.read_text() == (tmp_path / name).read_text(), (
        "render them again: python -m tests.studies --render"
    )


@pytest.mark.parametrize("page", pages.READINGS, ids=lambda page: page.NAME)
def test_the_pages_in_words_are_of_the_committed_records(page: ModuleType) -> None:
    assert (pages.RESULTS / page.NAME).read_text() == page.text(pages.RESULTS)


def test_the_readmes_story_is_told_in_figures_of_its_record() -> None:
    *_, et3 = (record for record in read(pages.RESULTS) if (record.defense or "") == "et3")
    story = Path("README.md").read_text().split("**ET3**")[1].split("\n\n")[0]
    by_protocol, static = et3.protocol_counts, json.loads(et3.static_by_protocol or "{}")
    counts = [by_protocol["published"], static["published"], by_protocol["unrolled"]]
    assert re.findall(r"[\d.]+% \(\d+/\d+\)", story) == [of(count, et3.n) for count in counts]
    assert et3.robust_correct == et3.static_correct == by_protocol["unrolled"]
    assert et3.worst_protocol == "unrolled"


@pytest.mark.parametrize("folder", [pages.RESULTS, pages.RESULTS / "board"], ids=str)
def test_committed_records_name_no_path_of_the_machine_that_made_them(folder: Path) -> None:
    for record in read(folder):
        for name, value in json.loads(record.source or "{}").items():
            assert not Path(str(value)).is_absolute(), (record.key, name)
