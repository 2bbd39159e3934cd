"""Imports point one way, and each heavy third party lives in one place."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

import dentbench

PACKAGE: Final = Path(dentbench.__file__).parent

LAYERS: Final = (
    ("errors",),
    ("validation", "registry", "stats", "paper"),
    ("spec",),
    ("compute",),
    ("adapt", "attacks", "zoo", "records"),
    ("defenses",),
    ("report",),
    ("evaluation",),
    ("study",),
    ("api", "cli"),
)
"""The folders and top-level modules from the bottom to the top.

Each imports from those below and itself; those of one line do not import each other.
"""

HOMES: Final = MappingProxyType(
    {
        # zoo.train and zoo.collect are maintenance commands, no part of an evaluation.
        "pyautoattack": {"attacks.autoattack", "zoo.train"},
        "robustbench": {"zoo.robustbench_shim", "zoo.collect"},
        "typer": {"cli"},
        "ray": {"evaluation.executor"},
        "matplotlib": {"report.formats.figures"},
        "pandas": {"records", "report"},
        "tabulate": {"report"},
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
    "dentbench.report.tables.records",
    "dentbench.zoo.cards",
    "dentbench.cli.app",
)
"""What ``--help``, a bad option and ``report`` load: it must not load the heavy ones."""

HEAVY: Final = ("torch", "torchvision", "pandas", "pyautoattack", "robustbench", "matplotlib")


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


@cache
def imported(path: Path, *, types_too: bool = False) -> frozenset[str]:
    """The full names that a module imports, at its top or in a function."""
    names: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        if types_too or not is_for_types_only(node):
            todo.extend(ast.iter_child_nodes(node))
    return frozenset(names)


def layer_of(module: str) -> tuple[int, str]:
    """The layer of a module and its room; 0 is the bottom."""
    room = module.partition(".")[0]
    known = {name: number for number, names in enumerate(LAYERS) for name in names}
    return known[room], room


def inner_imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for name in imported(path):
        head, _, rest = name.partition(".")
        if head == "dentbench" and rest:
            found.add(rest if rest in known else rest.rpartition(".")[0])
    return found - {""}  # what is imported of the package itself, such as its version


def test_imports_point_one_way() -> None:
    known = modules()
    upwards = []
    for module, path in known.items():
        if module in ("", "__main__"):  # the front doors: they open onto the top
            continue
        number, room = layer_of(module)
        for target in inner_imports(path, known):
            below, other = layer_of(target)
            if not (below < number or other == room):
                upwards.append(f"{module} imports {target}")
    assert not upwards


def test_the_rooms_do_not_know_each_other() -> None:
    """Said on its own because it is easily lost: adapt, attacks and zoo are strangers."""
    known = modules()
    rooms = ("adapt", "attacks", "zoo")
    strangers = [
        f"{module} imports {target}"
        for module, path in known.items()
        for target in inner_imports(path, known)
        if module.startswith(rooms) and target.startswith(rooms)
        if layer_of(module)[1] != layer_of(target)[1]
    ]
    assert not strangers


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
    strays = [
        module
        for module, path in modules().items()
        if any(name.partition(".")[0] == library for name in imported(path, types_too=True))
        if module not in homes and module.partition(".")[0] not in homes
    ]
    assert not strays


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
    empty_room = path.name == "__init__.py" and not path.read_text().strip()
    assert empty_room or ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("name", ["tests.benchmarks.__main__", "tests.soak.__main__"])
def test_what_only_make_runs_can_be_imported(name: str) -> None:
    importlib.import_module(name)
