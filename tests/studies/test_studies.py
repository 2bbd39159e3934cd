"""The committed studies can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from dentbench.cli import app, config
from tests.studies import pages
from tests.studies.studies import FOLDER, STUDIES, Study


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_setting_is_an_option(study: Study) -> None:
    command = typer.main.get_command(app.app).commands[study.runs]  # type: ignore[attr-defined]
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    for run in config.runs(study.config, command.params):
        assert {"--" + name.replace("_", "-") for name in run} <= known


def test_every_config_is_a_study() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.toml")) == sorted(s.name for s in STUDIES)


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_committed_tables_are_what_report_renders(name: str, tmp_path: Path) -> None:
    pages.render(name, tmp_path / name)
    committed = pages.TABLES / name
    assert committed.read_text() == (tmp_path / name).read_text(), (
        "render them again: python -m tests.studies --render"
    )
