"""README.md against the code: its tables, options, files and links are those that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.cli import app
from dentbench.records.outcome import Record
from dentbench.report.verdict import Kind
from tests import readme, renew
from tests.helpers import FUNCTION_LINES, MODULE_LINES
from tests.readme import ROOT, TABLES, renewed

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = (ROOT / "examples/README.md").read_text(encoding="utf-8")
ACTION = (ROOT / "examples/robustness.yml").read_text(encoding="utf-8")
COMMANDS: dict[str, Any] = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]
READ_IN_A_RUN = 20
LINES, WIDTH = 205, 130


def section(title: str) -> str:
    """The text between a heading and the next one."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def indented() -> Iterator[str]:
    """Every command line of the examples, those that go on in the next line joined."""
    for line in (README + EXAMPLES + ACTION).replace("\\\n", " ").splitlines():
        if re.match(r" {4,}(- run: )?dentbench ", line):
            yield line.split("#")[0].strip().removeprefix("- run: ")


def imports(path: Path) -> set[str]:
    """The full names that a file imports, those of modules that names are of among them."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.ImportFrom]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    return names | {str(node.module) for node in nodes}


@pytest.mark.parametrize("name", TABLES)
def test_generated_tables_are_those_of_the_code(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == renewed(text, TABLES[name]), "run python -m tests.renew readme"


def test_the_tables_name_every_protocol_and_column() -> None:
    names = re.findall(r"^\| `([\w-]+)` \|", readme.protocol_table(), re.MULTILINE)
    assert names == [*PROTOCOLS]
    names = re.findall(r"^\| `(\w+)` \|", readme.all_columns(), re.MULTILINE)
    assert names == [field.name for field in fields(Record)]


def test_a_table_is_renewed_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = "a\n<!-- t: python -m tests.renew readme -->\n| old |\n<!-- end of t -->\nb | old |\n"
    (tmp_path / "x.md").write_text(old)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "TABLES", {"x.md": {"t": lambda: r"| \1 |"}})
    assert renew.main("readme") == ""
    assert (tmp_path / "x.md").read_text() == old.replace("| old |\n<", "| \\1 |\n<")
    with pytest.raises(ValueError, match="has not one place"):
        renewed("nothing", {"t": str})


def test_the_verdicts_are_those_that_are_said() -> None:
    rows = re.findall(r"^\| `([a-z ]+)` \|", section("What it answers"), re.MULTILINE)
    assert sorted(rows) == sorted(get_args(Kind))


def test_every_command_and_option_exists() -> None:
    lines = [*indented()]
    assert {line.split()[1] for line in lines} == {
        *("evaluate", "report", "fetch", "judge", "show", "list"),
    }
    for line in lines:
        known = {name for param in COMMANDS[line.split()[1]].params for name in param.opts}
        assert set(re.findall(r"--[a-z][a-z-]*", line)) <= known, line
    commands = COMMANDS.values()
    everywhere = {name for command in commands for param in command.params for name in param.opts}
    named = set(re.findall(r"(?<!-)--[a-z][a-z-]*", README + EXAMPLES)) - {
        "--help",
        "--index-url",
        "--strict",
    }
    assert named <= everywhere


def test_the_one_path_names_files_that_are_there() -> None:
    path, places = section("The one path through the code").strip().split("\n\n")
    files = re.findall(r"`([\w/]+\.py)`", path)
    assert 10 < len(files) == len(set(files)) <= READ_IN_A_RUN
    named = [*files, *re.findall(r"`([\w/]+\.py)`", places)]
    missing = [name for name in named if not (ROOT / "dentbench" / name).is_file()]
    assert not missing
    imported: set[str] = {"dentbench.cli.evaluate"}
    for name in files:  # each is reached from those before it
        assert f"dentbench/{name}".removesuffix(".py").replace("/", ".") in imported, name
        imported |= imports(ROOT / "dentbench" / name)


@pytest.mark.parametrize("name", [*TABLES, "results/benchmarks/README.md", "examples/README.md"])
def test_files_that_are_named_or_linked_are_there(name: str) -> None:
    text, folder = (ROOT / name).read_text(encoding="utf-8"), (ROOT / name).parent
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:dentbench|examples|tests|results)/[\w/.-]+)`", text)
    kept = (
        re.findall(r"`([\w-]+\.(?:json|md|svg|png|py|yml))`", text) if name != "README.md" else []
    )
    files = [link.partition("#")[0] for link in links]
    missing = [name for name in [*files, *kept] if not (folder / name).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_files_that_one_adds_to_are_there() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.\w+)?)`", CONTRIBUTING)
    assert len(named) > 25
    roots = (ROOT, ROOT / "dentbench")
    assert not [name for name in named if not any((root / name).exists() for root in roots)]
    assert {*re.findall(r"tests\.renew (\w+)", CONTRIBUTING)} == {"readme", "stages", "columns"}
    limits = re.findall(r"at most (\d+) lines, modules (\d+);", CONTRIBUTING)
    assert limits == [(str(FUNCTION_LINES), str(MODULE_LINES))]


def test_links_to_sections_find_their_headings() -> None:
    links = re.findall(r"\]\(([\w/.-]+)#([\w-]+)\)", README + CONTRIBUTING)
    assert links
    for name, anchor in links:
        heads = re.findall(r"^##+ (.+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {head.lower().replace(" ", "-") for head in heads}, anchor


def test_the_manual_is_short_enough_to_be_read() -> None:
    lines = README.splitlines()
    assert len(lines) <= LINES
    assert all(len(line) <= WIDTH for line in lines if not line.startswith("|"))
