"""Imports point one way, and each heavy third party lives in one place."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import pytest

import dentbench

PACKAGE: Final = Path(dentbench.__file__).parent

FOUNDATION: Final = MappingProxyType(
    {
        "errors": set(),
        "stats": set(),
        "paper": set(),
        "paths": set(),
        "registry": {"errors"},
        "validation": {"errors"},
    }
)
"""The top-level modules that every folder may import, and what they import themselves."""

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
        "api": {"spec", "attacks", "zoo", "records", "defenses", "evaluation", "study", "report"},
        "cli": {"spec", "compute", "attacks", "zoo", "records", "evaluation", "study", "report"},
    }
)
"""What each folder, and the module ``api``, may import beside the foundation and itself."""

HOMES: Final = MappingProxyType(
    {
        # zoo.training_cards is of a maintenance command, no part of an evaluation.
        "pyautoattack": {"attacks.autoattack", "zoo.training_cards"},
        "robustbench": {"zoo.robustbench_shim"},
        "typer": {"cli"},
        "ray": {"evaluation.workers.executor"},
        "cloudpickle": {"evaluation.fresh_judgement.pristine"},
        "matplotlib": {"report.formats.figures"},
        "pandas": {"records", "report", "api"},
        "sklearn": {"zoo"},
        "pyarrow": {"zoo"},
        "gdown": {"zoo.download.transfer"},
        "safetensors": {"zoo"},
    }
)
"""Where a third party may be imported: a module or a whole folder."""

TORCH_FREE: Final = (
    "dentbench",
    "dentbench.spec.evaluation",
    "dentbench.records.outcome",
    "dentbench.records.results_csv",
    "dentbench.registry",
    "dentbench.attacks.catalogue",
    "dentbench.attacks.cost",
    "dentbench.zoo.cards",
    "dentbench.cli.app",
)
"""What ``--help`` and a bad option load: it must not load the heavy ones."""

HEAVY: Final = ("torch", "torchvision", "pandas", "pyautoattack", "robustbench", "matplotlib")


@cache
def modules() -> dict[str, Path]:
    """Every module by its name within the package; a room by the name of its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def is_for_types_only(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


class Module(NamedTuple):
    """What is read of a module, once for all tests: what it imports, for types only or not."""

    at_run: frozenset[str]
    for_types: frozenset[str]
    classes: tuple[str, ...]
    docstring: str | None
    text: str


@cache
def module_at(path: Path) -> Module:
    """Read a module: the full names that it imports, at its top or in a function, and classes."""
    names: dict[bool, set[str]] = {False: set(), True: set()}
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
        typing = typing or is_for_types_only(node)
        todo.extend((child, typing) for child in ast.iter_child_nodes(node))
    classes = tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    docstring = ast.get_docstring(tree)
    return Module(frozenset(names[False]), frozenset(names[True]), classes, docstring, text)


def imported(path: Path, *, types_too: bool = False) -> frozenset[str]:
    """The full names that a module imports, at its top or in a function."""
    module = module_at(path)
    return module.at_run | module.for_types if types_too else module.at_run


def folder_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def graph() -> dict[str, frozenset[str]]:
    """The modules of the package that each imports, for types as well."""
    known = modules()
    found = {}
    for module, path in known.items():
        inner = {name.removeprefix("dentbench.") for name in imported(path, types_too=True)}
        inner = {name if name in known else name.rpartition(".")[0] for name in inner}
        found[module] = frozenset(inner & known.keys() - {""})
    return found


def test_every_folder_has_a_rule() -> None:
    folders = {folder_of(module) for module in modules()} - {"", "__main__"}
    assert folders == {*FOUNDATION, *FOLDERS}


@pytest.mark.parametrize("folder", [*FOUNDATION, *FOLDERS])
def test_a_folder_imports_what_it_may(folder: str) -> None:
    allowed = {folder} | (
        FOUNDATION[folder] if folder in FOUNDATION else FOLDERS[folder] | {*FOUNDATION}
    )
    assert not [
        f"{module} imports {target}"
        for module, targets in graph().items()
        for target in targets
        if folder_of(module) == folder and folder_of(target) not in allowed
    ]


def test_no_modules_import_each_other_in_a_circle() -> None:
    list(TopologicalSorter(graph()).static_order())  # raises CycleError, which names the circle


def test_the_rules_have_no_circle() -> None:
    list(TopologicalSorter(FOLDERS).static_order())


def test_a_circle_is_seen() -> None:
    with pytest.raises(CycleError):
        list(TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).static_order())


def test_the_listing_is_short() -> None:
    assert len([*PACKAGE.glob("*.py")]) <= 8


def test_no_class_name_is_used_twice() -> None:
    names = [name for path in modules().values() for name in module_at(path).classes]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


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
    assert not {one for one in users if one not in homes and folder_of(one) not in homes}
    assert all(any(home in (one, folder_of(one)) for one in users) for home in homes)


def test_nothing_imports_click() -> None:
    """Recent Typer carries Click inside itself."""
    assert not [module for module, path in modules().items() if "click" in imported(path)]


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
