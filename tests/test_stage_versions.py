"""Every stage has a number, which is raised when its code is another."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests import renew, stage_code


def test_numbers_are_raised_with_the_code() -> None:
    known, present = json.loads(renew.STAGES.read_text()), stage_code.code_of_stages()
    assert not renew.stages_to_raise(present, known), renew.ADVICE
    assert present == known, "run python -m tests.renew stages"


MODULE = '''
LIMIT = {limit}


def helper(x):
    """Move."""
    return x + LIMIT


class Stage:
    def run(self, x: int) -> int:
        # a remark
        return helper(x)


def start(x):
    return Stage().run(x)


def unused(x):
    return {unused}
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "dentbench" / "attacks"
    folder.mkdir(parents=True)
    monkeypatch.setattr(stage_code, "PACKAGE", tmp_path / "dentbench")
    return folder


def hashed(package: Path, source: str) -> str:
    (package / "made.py").write_text(source)
    (package / "first.py").write_text(
        "from dentbench.attacks import made\n\n\ndef attack(x):\n    return made.start(x)\n"
    )
    stage_code._module.cache_clear()
    try:
        return stage_code.hash_of(("dentbench.attacks.first:attack",))
    finally:
        stage_code._module.cache_clear()


def test_what_a_stage_leads_to_counts_and_nothing_else(package: Path) -> None:
    source = MODULE.format(limit=1, unused=1)
    first = hashed(package, source)
    assert hashed(package, MODULE.format(limit=1, unused=2)) == first
    for words, others in (("Move.", "New."), ("a remark", "new"), (": int", ""), (" -> int", "")):
        assert hashed(package, source.replace(words, others)) == first
    assert hashed(package, MODULE.format(limit=2, unused=1)) != first
    assert hashed(package, source.replace("x + LIMIT", "x - LIMIT")) != first
    assert hashed(package, source.replace("helper(x)\n\n", "helper(x) + 1\n\n")) != first


def test_a_stage_that_changed_is_named() -> None:
    known: renew.Stages = {"a": {"version": 1, "code": "x"}, "b": {"version": 1, "code": "y"}}
    present: renew.Stages = {"a": {"version": 2, "code": "z"}, "b": {"version": 1, "code": "z"}}
    assert renew.stages_to_raise(present, known) == ["b"]
    assert renew.stages_to_raise(known, known) == []


def test_every_protocol_leads_somewhere() -> None:
    for name, (_, roots) in stage_code.stages().items():
        for root in roots:
            module, _, function = root.partition(":")
            nodes = stage_code._module(module)[0][function]
            assert isinstance(nodes[0], ast.FunctionDef | ast.ClassDef), name
