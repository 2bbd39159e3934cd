"""The committed studies can be run."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import typer

from dentbench.cli import app, config
from dentbench.records.results_csv import read
from tests.studies import pages
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


@pytest.mark.parametrize("folder", [pages.RESULTS, pages.RESULTS / "board"], ids=str)
def test_committed_records_name_no_path_of_the_machine_that_made_them(folder: Path) -> None:
    for record in read(folder):
        for name, value in json.loads(record.source or "{}").items():
            assert not Path(str(value)).is_absolute(), (record.key, name)
