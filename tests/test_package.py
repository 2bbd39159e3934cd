"""The package as others meet it: examples in docstrings, recipes, and a wheel elsewhere."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import dentbench
from dentbench.records import results_csv
from tests.helpers import ROOT, Run, record

DOCUMENTED = ("adapt.dent", "spec.dent", "records.frame", "api", "report.table")


@pytest.mark.parametrize("module", DOCUMENTED)
def test_the_examples_in_docstrings_are_right(module: str) -> None:
    actual = doctest.testmod(
        importlib.import_module(f"dentbench.{module}"), optionflags=doctest.ELLIPSIS
    )
    assert actual.attempted >= 3 and actual.failed == 0


def test_every_public_name_is_there() -> None:
    assert all(getattr(dentbench, name).__doc__ for name in dentbench.__all__)


def copied_to(source: Path) -> Path:
    """Copy the files that a build needs; it leaves files behind."""
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "dentbench", source / "dentbench", ignore=caches)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


needs_tools = pytest.mark.skipif(
    not (importlib.util.find_spec("build") and importlib.util.find_spec("twine")),
    reason="build and twine are not installed",
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release, which is built once."""
    folder = tmp_path_factory.mktemp("release")
    source, made = copied_to(folder / "source"), folder / "made"
    run_module("build", "--no-isolation", "--outdir", str(made), str(source))  # no network
    return made


@needs_tools
def test_a_wheel_runs_outside_the_repository(release: Path, tmp_path: Path) -> None:
    (wheel,) = release.glob("dentbench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    files = (path for path in (ROOT / "dentbench").rglob("*") if path.is_file())
    package = {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}
    assert package <= set(names) and any("licenses/LICENSE" in name for name in names)
    results_csv.append(tmp_path / "results", record(1))
    script = "import sys; sys.path.insert(0, 'site'); from dentbench.cli.app import main; main()"
    arguments = ("report", "--format", "html", "--out", "report.html")
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    where = "import sys; sys.path.insert(0, 'site'); import dentbench; print(dentbench.__file__)"
    shown = subprocess.run(
        [sys.executable, "-I", "-c", where],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert Path(shown.stdout.strip()).is_relative_to(tmp_path)


@needs_tools
def test_a_release_is_built_and_its_description_is_in_order(release: Path) -> None:
    files = sorted(release.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"]
    assert "WARNING" not in run_module("twine", "check", "--strict", *map(str, files))


def run_module(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.escape(project["version"])
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    changes = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", changes, re.MULTILINE)
    assert sections[0] == ("Unreleased", "") and all(date for _, date in sections[1:])
    assert [name for name, _ in sections[1:]] == sorted(
        (name for name, _ in sections[1:]), key=lambda name: [*map(int, name.split("."))]
    )[::-1]
    assert sections[1][0] == project["version"]
    assert project["urls"] and project["keywords"] and project["authors"]


def pasted_commands() -> list[str]:
    """The arguments of the commands that evaluate the recipes' model, the README's first."""
    pages = [
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "examples/README.md")
    ]
    text = "\n".join(pages).replace("\\\n", " ")
    return re.findall(r"^ +dentbench (evaluate --model my_model:make .*)$", text, re.MULTILINE)


def test_the_recipes_work_as_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    defense = (ROOT / "examples/my_defense.py").read_text(encoding="utf-8")
    assert re.findall(r"```python\n(.*?)```", readme, re.DOTALL) == [defense]
    assert " cd examples && python my_model.py\n" in readme
    listed = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    for path in {*(ROOT / "examples").glob("*.*")} - {ROOT / "examples/README.md"}:
        assert f"`{path.name}`" in listed
        shutil.copy(path, tmp_path)
    done = subprocess.run(
        [sys.executable, "my_model.py"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    command, commands = Run(monkeypatch, capsys, tmp_path), pasted_commands()
    assert len(commands) == 3
    for arguments in commands:
        code, _, err = command(*arguments.split())
        assert code == 0, err
    rows = results_csv.read(tmp_path / "results")
    assert {row.model for row in rows} == {"my_model:make"}
    plain, defended, attack = (row for row in rows if row.mode != "static")
    assert plain.protocol == "published transfer"
    assert defended.defense == "my_defense:Recentred" and defended.defense_settings is not None
    assert {"published", "fpa", "unrolled"} <= set(defended.protocol.split())
    assert attack.attack.startswith("my_attacks:fgsm@")
    assert "my_attacks:halfway" in {name.partition("@")[0] for name in attack.protocol.split()}
