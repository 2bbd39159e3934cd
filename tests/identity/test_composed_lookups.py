"""Lookups by a text that is put together, or comes from elsewhere, count too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dentbench.identity.fingerprint import fingerprint
from dentbench.identity.user_code import load
from tests.helpers import forget_modules

SOURCE = """
import importlib
import os
import pathlib
import sys
import tempfile
from os import environ as settings, getenv as setting

import numpy as np
import torch
from torch import nn

import composed_helper

HELPS = "helper"
KEYS = ["COMPOSED_LEVEL"]
LEVEL_LOW = 2.0
HERE = os.path.dirname(os.path.abspath(__file__))
INNER = os.path.join(HERE, "inner")


class Key:
    NAME = "COMPOSED_LEVEL"


def by_default(x, held=os.environ):
    return x * float(held["COMPOSED_LEVEL"])


def read_all(files):
    return sum(float(np.loadtxt(file)) for file in files)


def snippet():
    space = {}
    exec(open(os.path.join(HERE, "snippet.py")).read(), space)
    return space["moved"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.key, self.stem, self.which, self.kind = "COMPOSED_LEVEL", "levels", "STRENGTH", "LOW"

    def forward(self, x):
        return {CALL}


def make():
    return Net().eval()
"""
HELPER = "STRENGTH = 2.0\n\n\ndef __getattr__(name):\n    return 5.0\n"

ENVIRONMENT = (
    "x * float(settings['COMPOSED_LEVEL'])",
    "x * float(setting('COMPOSED_LEVEL'))",
    "by_default(x)",
    "x * float(os.environ[self.key])",
    "x * float(os.environ[Key.NAME])",
    "x * float(os.environ[KEYS[0]])",
    "x * float(os.environ[f'COMPOSED_{self.which}'])",
)
FILES = (
    ("x * float(np.loadtxt(os.path.join(HERE, 'inner', 'levels.txt')))", "inner/levels.txt"),
    ("x * float(np.loadtxt(pathlib.Path(HERE) / 'inner' / 'levels'))", "inner/levels"),
    ("x * float(np.loadtxt(os.path.join(HERE, 'levels.dat')))", "levels.dat"),
    ("x * float(np.loadtxt(os.path.join(HERE, self.stem + '.txt')))", "levels.txt"),
    ("x * float(np.loadtxt(f'{HERE}/{self.stem}.txt'))", "levels.txt"),
    ("x * float(np.loadtxt(HERE + '/levels.dat'))", "levels.dat"),
    ("x * float(np.loadtxt(HERE + '/inner/levels'))", "inner/levels"),
    ("x * float(np.loadtxt(next(pathlib.Path(HERE).glob('lev*.dat'))))", "levels.dat"),
    ("snippet()(x)", "snippet.py"),
    ("x * float(np.loadtxt(f'{HERE}/part_{len(KEYS)}.dat'))", "part_1.dat"),
    ("x * float(np.loadtxt(HERE + '/part_%d.dat' % len(KEYS)))", "part_1.dat"),
    ("x * float(np.loadtxt(HERE + '/part_{:02d}.dat'.format(len(KEYS))))", "part_01.dat"),
    ("x * float(np.loadtxt(f'{HERE}/{self.stem}-{self.kind}.dat'))", "levels-LOW.dat"),
    ("x * read_all(sorted(pathlib.Path(HERE, 'inner').iterdir()))", "inner/x9.tab"),
    ("x * read_all(os.path.join(INNER, f) for f in sorted(os.listdir(INNER)))", "inner/x9.tab"),
    ("x * read_all(sorted(pathlib.Path(HERE).rglob('lev*.tab')))", "inner/levels.tab"),
    ("x * read_all(sorted(pathlib.Path(HERE).glob('**/lev*.tab')))", "inner/levels.tab"),
    ("x * read_all([pathlib.Path(__file__).with_suffix('.tab')])", "composed_network.tab"),
    ("x * read_all([__file__.replace('.py', '.tab')])", "composed_network.tab"),
    ("x * read_all([pathlib.Path(HERE).parent / 'above.tab'])", "../above.tab"),
)
MODULES = (
    "x * getattr(composed_helper, self.which)",
    "x * vars(composed_helper)[self.which]",
    "x * composed_helper.__dict__[self.which]",
    "x * sys.modules['composed_helper'].STRENGTH",
    "x * composed_helper.DYNAMIC",
    "x * importlib.import_module(f'composed_{HELPS}').STRENGTH",
)
OUTSIDE = (
    "x * float(np.loadtxt(os.path.expanduser('~/level.dat')))",
    "x * float(np.loadtxt(pathlib.Path.home() / 'level.dat'))",
    "x * float(np.loadtxt(os.path.expandvars('$HOME/level.dat')))",
    "x * float(np.loadtxt(os.environ['HOME'] + '/level.dat'))",
    "x * float(np.loadtxt(os.path.join(tempfile.gettempdir(), 'level.dat')))",
)
GLOBALS = (
    "x * globals()['LEVEL_' + self.kind]",
    "x * eval('LEVEL_' + self.kind)",
    "x * sys._getframe().f_globals['LEVEL_' + self.kind]",
)


@pytest.fixture
def identity_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return what writes a module and files beside it, and returns its network's identity."""
    monkeypatch.setenv("COMPOSED_LEVEL", "2")

    def identity(
        call: str,
        old: str = "",
        new: str = "",
        helper: str = HELPER,
        file: str = "",
        folder: str = "here",
    ) -> str:
        place = tmp_path / folder
        (place / "inner").mkdir(parents=True, exist_ok=True)
        for _, name in FILES:
            (place / name).write_text("3" if name == file else "2")
        (place / "composed_helper.py").write_text(helper)
        source = SOURCE.replace("{CALL}", call)
        assert old in source
        (place / "composed_network.py").write_text(source.replace(old, new) if old else source)
        forget_modules("composed_")
        return fingerprint(load(f"{place}/composed_network.py:make")[0]())

    yield identity
    forget_modules("composed_")


@pytest.mark.parametrize("call", [*ENVIRONMENT, *(call for call, _ in FILES), *MODULES, *GLOBALS])
def test_it_is_the_same_elsewhere(call: str, identity_of: Callable[..., str]) -> None:
    assert identity_of(call) == identity_of(call, folder="there")


@pytest.mark.parametrize("call", ENVIRONMENT)
def test_a_variable_counts(
    call: str, identity_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSED_STRENGTH", "2")
    first = identity_of(call)
    monkeypatch.setenv("SOMETHING_ELSE", "2")
    assert identity_of(call) == first
    monkeypatch.setenv("COMPOSED_LEVEL", "3")
    monkeypatch.setenv("COMPOSED_STRENGTH", "3")
    assert identity_of(call) != first


@pytest.mark.parametrize(("call", "file"), FILES)
def test_a_file_counts(call: str, file: str, identity_of: Callable[..., str]) -> None:
    assert identity_of(call) != identity_of(call, file=file)


def test_what_dentbench_writes_beside_the_code_says_nothing(
    identity_of: Callable[..., str], tmp_path: Path
) -> None:
    call = "x * read_all(sorted(pathlib.Path(HERE).rglob('lev*.tab')))"
    first = identity_of(call)
    runs = tmp_path / "here" / "results" / "runs"
    runs.mkdir(parents=True)
    (runs / "levels.tab").write_text("5")
    assert identity_of(call) != first, "so it is a file that the code reads"
    (runs.parent / "results.csv").write_text("")
    assert identity_of(call) == first


@pytest.mark.parametrize("call", MODULES)
def test_a_module_counts(call: str, identity_of: Callable[..., str]) -> None:
    other = HELPER.replace("2.0", "3.0").replace("5.0", "6.0")
    assert identity_of(call) != identity_of(call, helper=other)


@pytest.mark.parametrize("call", GLOBALS)
def test_a_value_of_its_own_module_counts(call: str, identity_of: Callable[..., str]) -> None:
    assert identity_of(call) != identity_of(call, "LEVEL_LOW = 2.0", "LEVEL_LOW = 3.0")


@pytest.mark.parametrize("call", OUTSIDE)
def test_a_file_far_from_the_code_counts(
    call: str, identity_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    known = []
    for level in ("2", "2", "3"):
        (tmp_path / "level.dat").write_text(level)
        known.append(identity_of(call))
    assert known[0] == known[1] != known[2]


def test_a_name_added_to_pythons_own_counts(
    identity_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = set()
    for level in (2.0, 3.0):
        monkeypatch.setattr("builtins.composed_level", level, raising=False)
        known.add(identity_of("x * composed_level"))
    assert len(known) == 2


def test_a_patch_below_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(2, 2)
    plain = fingerprint(network, network.state_dict().keys())
    monkeypatch.setattr(torch.special, "expit", lambda x: 2 * x)
    assert fingerprint(network, network.state_dict().keys()) != plain


PARTS = {
    "x * float(os.environ[f'{self.which}LEVEL'])": "STRENGTHLEVEL",
    "x * float(os.environ['SET' + self.which])": "SETSTRENGTH",
    "x * float(os.environ[f'{self.kind}{2}{self.which}'])": "LOW2STRENGTH",
    "x * float(os.environ['_'.join([self.which, self.kind])])": "STRENGTH_LOW",
}


@pytest.mark.parametrize("call", PARTS)
def test_a_variable_named_in_parts_counts(
    call: str, identity_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PARTS[call], "2")
    first = identity_of(call)
    for other in ("STRENGTHS", "XLOW", "22", "HOST_OF_THIS"):  # no text of its code
        monkeypatch.setenv(other, "2")
    assert identity_of(call) == first
    monkeypatch.setenv(PARTS[call], "3")
    assert identity_of(call) != first
