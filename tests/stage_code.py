"""The code that decides the answers of each stage, as a hash: its numbers are raised with it.

From a stage's function on, every function, class and constant of ``adapt``, ``attacks`` and
``defenses`` (and of ``evaluation.cascade``) that it names is followed, by the source alone.
Comments, docstrings, annotations and the places of things are left out.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

import dentbench
from dentbench.attacks.catalogue import CHECKS_VERSION, NATURAL_VERSION, PROTOCOLS
from dentbench.defenses.catalogue import DEFENSES, DENT, NONE
from dentbench.spec.dent import LOSSES

PACKAGE = Path(dentbench.__file__).parent

FOLLOWED = ("dentbench.adapt.", "dentbench.attacks.", "dentbench.defenses.")
"""Where the code lies that decides answers; how a network is computed changes none."""


CASCADE = tuple(f"dentbench.evaluation.cascade:{name}" for name in ("inheritance", "corrected"))
JUDGE = ("dentbench.evaluation.workers.judging:judge_in_batches",)


def stages() -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return the number of each stage and defense, and what its code begins with."""
    result: dict[str, tuple[int, tuple[str, ...]]] = {"natural": (NATURAL_VERSION, JUDGE)}
    for name, card in PROTOCOLS.items():
        result[name] = card.version, (card.function, *CASCADE, *JUDGE)
    for name, defense in DEFENSES.items():
        losses = tuple(loss.function for loss in LOSSES.values()) if name == DENT else ()
        if name != NONE:
            result[name] = defense.version, (defense.function, *losses)
    probes = ("suite:probe", "planting:plant", "planting:ReadoutDefense")
    result["checks"] = (
        CHECKS_VERSION,
        tuple(f"dentbench.attacks.probes.{probe}" for probe in probes),
    )
    return result


def code_of_stages() -> dict[str, dict[str, int | str]]:
    """Return the number of each stage beside the hash of its code."""
    return {
        name: {"version": version, "code": hash_of(roots)}
        for name, (version, roots) in stages().items()
    }


def hash_of(roots: tuple[str, ...]) -> str:
    """Return the hash of the code that functions, each "module:name", lead to."""
    waiting = [(module, name) for module, _, name in (root.partition(":") for root in roots)]
    written: dict[tuple[str, str], str] = {}
    while waiting:
        module, name = waiting.pop()
        if (module, name) in written:
            continue
        definitions, imports = _module(module)
        if name in imports and name not in definitions:
            waiting += _followed([imports[name]])
            continue
        nodes = definitions.get(name, ())
        written[module, name] = " ".join(map(_written, nodes))
        for node in nodes:
            waiting += [(module, item) for item in _names(node) if item in definitions]
            waiting += _followed(_imported(node, imports))
    whole = "\n".join(sorted(written.values()))
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _followed(result: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(module, name) for module, name in result if module.startswith(FOLLOWED)]


@cache
def _module(name: str) -> tuple[dict[str, list[ast.stmt]], dict[str, tuple[str, str]]]:
    """Return a module's definitions, by name, and its imports: module and name, "" for all."""
    path = PACKAGE.parent / f"{name.replace('.', '/')}.py"
    if not path.exists():
        path = path.with_suffix("") / "__init__.py"
    definitions: dict[str, list[ast.stmt]] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            for target in ast.walk(node):
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                    definitions.setdefault(target.id, []).append(node)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                imports[alias.asname or alias.name] = node.module, alias.name
    return definitions, imports


def _names(node: ast.AST) -> set[str]:
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


def _imported(node: ast.AST, imports: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a definition's uses of other modules: their names, or the names taken from them."""
    result = [imports[name] for name in _names(node) if name in imports]
    for item in ast.walk(node):
        if isinstance(item, ast.ImportFrom) and item.module:
            result += [(item.module, alias.name) for alias in item.names]
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name):
            module, name = imports.get(item.value.id, ("", ""))
            if module:
                result.append((f"{module}.{name}", item.attr))
    return [(module, name) for module, name in result if _is_module(module)]


def _is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return name.startswith("dentbench") and (path.is_dir() or path.with_suffix(".py").exists())


_UNTOLD = ("annotation", "returns", "ctx", "type_comment", "type_params", "kind", "decorators")


def _written(node: object) -> str:
    """Return one writing of a piece of code that any version of Python gives."""
    if isinstance(node, list):
        return f"[{' '.join(map(_written, _without_docstring(node)))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = [
        f"{name}={_written(value)}"
        for name, value in ast.iter_fields(node)
        if name not in _UNTOLD and value not in (None, [])
    ]
    return f"{type(node).__name__}({' '.join(parts)})"


def _without_docstring(nodes: list[object]) -> list[object]:
    return [
        node
        for node in nodes
        if not (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        )
    ]
