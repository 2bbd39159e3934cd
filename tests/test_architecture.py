"""Imports point one way, and each heavy third party lives in one place."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import pytest

import dentbench
from tests.helpers import FUNCTION_LINES, MODULE_LINES

PACKAGE: Final = Path(dentbench.__file__).parent

FOUNDATION: Final = MappingProxyType(
    {
        "errors": set(),
        "containment": {"errors"},
        "stats": set(),
        "paper": set(),
        "paths": set(),
        "registry": {"errors", "paths", "validation"},
        "validation": {"errors"},
    }
)
"""The top-level modules that every folder may import, and their own imports."""

FOLDERS: Final = MappingProxyType(
    {
        "spec": set(),
        "compute": set(),
        "identity": set(),
        "adapt": {"spec", "compute"},
        "attacks": {"spec", "identity"},
        "zoo": {"spec", "identity"},
        "records": {"spec"},
        "defenses": {"spec", "adapt", "attacks", "identity", "zoo"},
        "report": {"spec", "attacks", "zoo", "records", "defenses"},
        "evaluation": {
            *("spec", "compute", "identity", "adapt", "attacks", "zoo", "records", "defenses"),
            "report",  # a run that stops when its verdict is decided asks for the verdict
        },
        "study": {"spec", "attacks", "zoo", "records", "defenses", "evaluation"},
        "api": {
            *("spec", "identity", "attacks", "zoo", "records", "defenses", "evaluation", "study"),
            "report",
        },
        "cli": {
            *("spec", "compute", "attacks", "zoo", "records", "evaluation", "study", "report"),
            "defenses",
        },
    }
)
"""The folders that each folder may import beside the foundation and itself."""

PARTS: Final = MappingProxyType(
    {
        "attacks.protocols": {"attacks"},
        "attacks.probes": {"attacks", "attacks.protocols"},
        "zoo.cards": set(),
        "zoo.images": {"zoo", "zoo.cards"},
        "zoo.robustbench": {"zoo", "zoo.cards"},
        "zoo.training": {"zoo", "zoo.cards", "zoo.images"},
        "zoo.download": {"zoo.cards", "zoo.images"},
        "report.tables": {"report"},
        "report.formats": {"report", "report.tables"},
        "evaluation.memory": set(),
        "evaluation.progress": set(),
        "evaluation.input_checks": {"evaluation.memory"},
        "evaluation.workers": {"evaluation", "evaluation.memory", "evaluation.input_checks"},
        "evaluation.checks": {"evaluation", "evaluation.input_checks"},
        "evaluation.measurements": {"evaluation"},
        "evaluation.fresh_judgement": {"evaluation", "evaluation.workers"},
        "evaluation.estimates": {
            *("evaluation", "evaluation.memory", "evaluation.progress", "evaluation.workers"),
        },
        "cli.options": {"cli"},
    }
)
"""What a folder in a folder may import of the same: its modules, by its name, and other folders."""

LATE: Final = MappingProxyType({"spec.dent": {"adapt.losses"}})
"""Modules that a table of names tells without importing them, where a folder may not import."""

HOMES: Final = MappingProxyType(
    {
        "numpy": {
            *("stats", "identity", "compute", "attacks", "zoo", "records", "report"),
            *("evaluation", "api"),
        },
        "torch": {
            *("identity", "compute", "adapt", "attacks", "zoo", "records", "defenses"),
            *("evaluation", "study", "api", "cli"),
        },
        # zoo.training.training_cards is of a maintenance command, no part of an evaluation.
        "pyautoattack": {"attacks.autoattack", "zoo.training.training_cards"},
        "robustbench": {"zoo.robustbench.architectures"},
        "typer": {"cli"},
        "rich": {
            "cli",
            "zoo.card_tables",
            "evaluation.progress",
            "report.formats.terminal",
            "api.evaluated",
        },
        "IPython": {"evaluation.progress.bars"},
        "ray": {"evaluation.workers.executor"},
        "cloudpickle": {"evaluation.fresh_judgement.pristine"},
        "matplotlib": {"report.formats.figures"},
        "jinja2": {"report.formats.page"},
        "markupsafe": {"report.formats.page"},
        "PIL": {"zoo.images", "report.run_details"},
        "filelock": {"compute.timing_cache", "zoo.download", "records"},
        "pandas": {"records", "report", "api"},
        "sklearn": {"zoo.training"},
        "pyarrow": {"zoo.images"},
        "gdown": {"zoo.download.transfer"},
        "safetensors": {"zoo"},
    }
)
"""Where each third party may be imported: modules and whole folders."""

TORCH_FREE: Final = (
    "dentbench",
    "dentbench.spec.evaluation",
    "dentbench.records.outcome",
    "dentbench.records.results_csv",
    "dentbench.registry",
    "dentbench.attacks.catalogue",
    "dentbench.attacks.cost",
    "dentbench.zoo.cards.model_cards",
    "dentbench.cli.app",
)
"""The imports of ``--help`` and of a bad option, which must not be heavy."""

HEAVY: Final = ("torch", "torchvision", "pandas", "pyautoattack", "robustbench", "matplotlib")


@cache
def modules() -> dict[str, Path]:
    """Every module by its name within the package; a room by the name of its folder."""
    result = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        result[".".join(part for part in parts if part != "__init__")] = path
    return result


def is_for_types_only(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


class Module(NamedTuple):
    """A module as read, once for all tests: its imports, for types only or not."""

    at_run: frozenset[str]
    for_types: frozenset[str]
    late: frozenset[str]
    classes: tuple[str, ...]
    docstring: str | None
    text: str


@cache
def module_at(path: Path) -> Module:
    """Read a module: the full names that it imports, at its top or in a function, and classes."""
    names: dict[bool, set[str]] = {False: set(), True: set()}
    late = set()
    text = path.read_text()
    tree = ast.parse(text)
    todo: list[tuple[ast.AST, bool]] = [(tree, False)]
    while todo:
        node, typing = todo.pop()
        if isinstance(node, ast.Import):
            names[typing] |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names[typing] |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            late |= {*re.findall(r"^([A-Za-z]\w*(?:\.\w+)*)(?::\w+)?$", node.value)}
        typing = typing or is_for_types_only(node)
        todo.extend((child, typing) for child in ast.iter_child_nodes(node))
    classes = tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    docstring = ast.get_docstring(tree)
    at_run, for_types = frozenset(names[False]), frozenset(names[True])
    return Module(at_run, for_types, frozenset(late), classes, docstring, text)


def imported(path: Path, *, types_too: bool = False) -> frozenset[str]:
    """The full names that a module imports, at its top or in a function."""
    module = module_at(path)
    return module.at_run | module.for_types if types_too else module.at_run


def folder_of(module: str) -> str:
    return module.partition(".")[0]


def part_of(module: str) -> str:
    """The folder that holds a module, by its name within the package."""
    path = modules()[module]
    return ".".join(path.relative_to(PACKAGE).parent.parts)


def is_within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def targets(names: Iterable[str]) -> frozenset[str]:
    """The modules of the package among full names; a public name's is where it is defined."""
    known, reached = modules(), set()
    for name in names:
        if name.partition(".")[0] == "dentbench":
            inner = dentbench._HOMES.get(name.removeprefix("dentbench."), name)
            inner = inner.removeprefix("dentbench.")
            reached.add(inner if inner in known else inner.rpartition(".")[0])
    return frozenset(reached & known.keys() - {""})


@cache
def graph() -> dict[str, frozenset[str]]:
    """The modules of the package that each imports, for types as well."""
    return {module: targets(imported(path, types_too=True)) for module, path in modules().items()}


def wrong(module: str, reached: Iterable[str]) -> list[str]:
    """Which of the modules that one reaches its folder, or its folder's part, may not import."""
    folder, part = folder_of(module), part_of(module)
    allowed = FOUNDATION[folder] if folder in FOUNDATION else FOLDERS[folder] | {*FOUNDATION}
    own = {part} | PARTS.get(part, {part_of(target) for target in reached})
    return [
        f"{module} imports {target}"
        for target in reached
        if (folder_of(target) != folder and folder_of(target) not in allowed)
        or (folder_of(target) == folder and part_of(target) not in own)
    ]


def test_every_folder_has_a_rule() -> None:
    folders = {folder_of(module) for module in modules()} - {"", "__main__"}
    assert folders == {*FOUNDATION, *FOLDERS}
    assert {part_of(module) for module in modules()} - folders == {"", *PARTS}


@pytest.mark.parametrize("folder", [*FOUNDATION, *FOLDERS])
def test_a_folder_imports_what_it_may(folder: str) -> None:
    inside = [module for module in modules() if folder_of(module) == folder]
    assert not [line for module in inside for line in wrong(module, graph()[module])]
    for module in inside:  # names in strings, by which a table imports late
        late = targets(module_at(modules()[module]).late) - LATE.get(module, set())
        assert not [line for line in wrong(module, late) if folder_of(line.split()[-1]) != folder]


@pytest.mark.parametrize("part", [*FOUNDATION, *FOLDERS, *PARTS])
@pytest.mark.parametrize("form", ["from dentbench.{} import {}", "import dentbench.{}.{}", ""])
def test_a_wrong_import_is_seen_in_every_folder(part: str, form: str, tmp_path: Path) -> None:
    inside = next(module for module in modules() if is_within(module, part))
    highest = folder_of(part) in ("cli", "api")  # nobody may import these; they not adapt
    folder, name, public = ("adapt", "dent", "Dent") if highest else ("cli", "app", "evaluate")
    line = form.format(folder, name) if form else f"from dentbench import {public}"
    path = tmp_path / "module.py"
    path.write_text(f"def late():\n    {line}\n")
    assert len(wrong(inside, targets(imported(path, types_too=True)))) == 1


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_folder_imports_no_other_part(part: str) -> None:
    inside = next(module for module in modules() if is_within(module, part))
    others = [other for other in {*PARTS} - {part} if folder_of(other) == folder_of(part)]
    for other in others:
        target = next(module for module in modules() if part_of(module) == other)
        assert bool(wrong(inside, [target])) == (other not in PARTS[part])


def test_every_permission_is_used() -> None:
    pairs = {(module, target) for module, reached in graph().items() for target in reached}
    strings = {
        (module, target)
        for module, path in modules().items()
        for target in targets(module_at(path).late)
    }
    folders = {(folder_of(module), folder_of(target)) for module, target in pairs | strings}
    parts = {(part_of(module), part_of(target)) for module, target in pairs}
    assert not [
        (name, two) for name, may in FOLDERS.items() for two in may if (name, two) not in folders
    ]
    assert not [
        (name, two) for name, may in PARTS.items() for two in may if (name, two) not in parts
    ]
    assert all(late <= targets(module_at(modules()[name]).late) for name, late in LATE.items())


def test_no_modules_import_each_other_in_a_circle() -> None:
    list(TopologicalSorter(graph()).static_order())  # raises CycleError, which names the circle


def test_the_rules_have_no_circle() -> None:
    list(TopologicalSorter(FOLDERS).static_order())
    parts = {part: {two for two in may if "." in two} for part, may in PARTS.items()}
    list(TopologicalSorter(parts).static_order())


def test_a_circle_is_seen() -> None:
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).static_order())


def test_the_listing_is_short() -> None:
    assert len([*PACKAGE.glob("*.py")]) <= 8


def test_modules_and_functions_are_short() -> None:
    lengths = {module: module_at(path).text.count("\n") for module, path in modules().items()}
    assert {module: lines for module, lines in lengths.items() if lines > MODULE_LINES} == {}
    long = {
        (module, node.name): lines
        for module, path in modules().items()
        for node in ast.walk(ast.parse(module_at(path).text))
        if isinstance(node, ast.FunctionDef) and (lines := lines_of(node)) > FUNCTION_LINES
    }
    assert long == {}


def lines_of(function: ast.FunctionDef) -> int:
    """The lines below the signature and the docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return int(function.end_lineno or 0) - int(
        (first.end_lineno or 0) if documented else first.lineno - 1
    )


def test_no_class_name_is_used_twice() -> None:
    names = [name for path in modules().values() for name in module_at(path).classes]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


SHARED_NAMES = {
    *("board", "defenses", "dent", "dry_run", "models", "diagnostics", "batch_mates"),
    *("base", "catalogue", "losses", "transfer"),
}
"""File names that several folders have: of one thing and its parts, or of the same role."""


def test_no_file_name_is_used_for_two_things() -> None:
    names = [path.stem for path in modules().values() if path.stem != "__init__"]
    assert {name for name in names if names.count(name) > 1} <= SHARED_NAMES


def test_the_check_sees_imports_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "import torch.nn\n"
        "if TYPE_CHECKING:\n    from dentbench.evaluation.runner import Evaluation\n"
        "def f():\n    from dentbench.cli import app\n"
    )
    assert imported(path) == {"typing.TYPE_CHECKING", "torch.nn", "dentbench.cli.app"}
    assert "dentbench.evaluation.runner.Evaluation" in imported(path, types_too=True)


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_third_party_has_one_home(library: str) -> None:
    homes = HOMES[library]
    users = {
        module
        for module, path in modules().items()
        if any(name.partition(".")[0] == library for name in imported(path, types_too=True))
        or f'import_module("{library}' in module_at(path).text
    }
    assert not [user for user in users if not any(is_within(user, home) for home in homes)]
    assert not [home for home in homes if not any(is_within(user, home) for user in users)]


def test_every_third_party_has_a_home() -> None:
    names = {
        name.partition(".")[0]
        for path in modules().values()
        for name in imported(path, types_too=True)
    }
    assert names - sys.stdlib_module_names - {"dentbench"} <= HOMES.keys()


def test_nothing_imports_click() -> None:
    """Recent Typer carries Click inside itself."""
    assert not [
        module
        for module, path in modules().items()
        if any(is_within(name, "click") for name in imported(path))
    ]


def test_the_start_up_path_loads_no_heavy_library() -> None:
    script = (
        f"import importlib, json, sys\n"
        f"for name in {TORCH_FREE!r}:\n    importlib.import_module(name)\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_says_what_it_is(module: str) -> None:
    path = modules()[module]
    empty_room = path.name == "__init__.py" and not module_at(path).text.strip()
    assert empty_room or module_at(path).docstring


@pytest.mark.parametrize("name", ["tests.benchmarks.__main__", "tests.soak.__main__"])
def test_what_only_make_runs_can_be_imported(name: str) -> None:
    importlib.import_module(name)


def test_no_test_module_imports_another() -> None:
    pattern = re.compile(
        r"^ *(?:from|import) tests(?:\.\w+)*\.test_\w+|^ *from tests.* import test_"
    )
    assert not [
        (path.name, line)
        for path in (PACKAGE.parent / "tests").rglob("*.py")
        for line in path.read_text().splitlines()
        if pattern.match(line)
    ]
