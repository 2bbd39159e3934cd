"""A user's attack or protocol: whatever is wrong with it is one sentence, of either kind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dentbench.attacks.base import ThreatModel
from dentbench.attacks.user_function import UserFunction, _tell_far
from dentbench.errors import ModelError, SpecError, UserExitError

SOURCE = """
def short(images):
    return images[:1]
def text(images):
    return "points"
def whole(images):
    return (255 * images).long()
def nan(images):
    return images * float("nan")
def raising(images):
    raise KeyError("a key")
def quiet(images):
    raise ValueError
def writing(images):
    return images.fill_(0.5)
def ending(images):
    raise SystemExit(3)
def doubled(images):
    return 2 * images.double().requires_grad_()
number = 3
"""
IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
KINDS = ("attack", "protocol")


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "user_functions.py"
    path.write_text(SOURCE)
    return path


def points_of(kind: str, name: str) -> torch.Tensor:
    function = UserFunction.imported(kind, f"user_functions:{name}", "a function of images")
    return function.checked(function(IMAGES), IMAGES, ThreatModel("Linf", 0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_it_may_write_into_what_it_is_given(kind: str) -> None:
    before = IMAGES.clone()
    assert torch.equal(points_of(kind, "writing"), torch.full_like(IMAGES, 0.5))
    assert torch.equal(IMAGES, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("short", ModelError, r"returned \(1, 3, 8, 8\), not points of shape \(4, 3, 8, 8\)"),
        ("text", ModelError, "returned str, not points of shape"),
        ("whole", ModelError, "returned points of type torch.int64, not floating point numbers"),
        ("nan", ModelError, "returned points that are not finite numbers"),
        ("raising", ModelError, "fails: KeyError: 'a key'"),
        ("quiet", ModelError, "fails: ValueError"),
        ("number", SpecError, "is not callable but of type int; name a function of images"),
        ("nothing", SpecError, "cannot be imported"),
    ],
)
def test_a_bad_one_is_one_sentence(
    kind: str, name: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=f"^{kind} '?user_functions:{name}'? .*{words}") as raised:
        points_of(kind, name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_ends_the_process_is_refused(kind: str) -> None:
    with pytest.raises(UserExitError):
        points_of(kind, "ending")


@pytest.mark.parametrize("kind", KINDS)
def test_points_come_as_the_images_are(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    _tell_far.cache_clear()
    points = points_of(kind, "doubled")
    assert torch.equal(points, 2 * IMAGES) and not points.requires_grad
    points_of(kind, "doubled")
    assert caplog.text.count("outside of the ball of eps 0.1 in Linf") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_holds_its_source(kind: str, module: Path) -> None:
    name = UserFunction.imported(kind, "user_functions:short", "a function").name
    assert UserFunction.imported(kind, name, "a function").name == name
    module.write_text(SOURCE + "more = 1\n")
    with pytest.raises(SpecError, match=f"the source of {kind} user_functions:short was changed"):
        UserFunction.imported(kind, name, "a function")


READS = """
import json
import os
import pathlib
import helper_of_user_functions
from functools import partial
STEP = float(os.environ.get("USER_STEP", "1"))
TABLE = json.loads(pathlib.Path("steps.json").read_text())
class Base:
    scale = 1
class Attack(Base):
    def __call__(self, images):
        return self.scale * images
by_import = lambda images: STEP * images
by_file = lambda images: TABLE[0] * images
def by_call(images):
    return float(os.environ["USER_STEP"]) * images
def by_data(images):
    return json.loads(open("steps.json").read())[0] * images
by_helper = partial(helper_of_user_functions.moved, by=2)
by_object = Attack()
COUNT = []
def counting(images):
    COUNT.append(len(images))
    return images
"""


@pytest.fixture
def reading(module: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USER_STEP", "1")
    (module.parent / "steps.json").write_text("[1]")
    (module.parent / "helper_of_user_functions.py").write_text("def moved(x, by): return by * x\n")
    path = module.parent / "reading_functions.py"
    path.write_text(READS)
    return path


def name_of(kind: str, name: str) -> str:
    return UserFunction.named(kind, f"reading_functions:{name}", "a function of images")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "environment", "file"),
    [
        ("by_import", True, False),
        ("by_call", True, False),
        ("by_file", False, True),
        ("by_data", False, True),
        ("by_helper", False, False),
        ("by_object", False, False),
    ],
)
def test_its_name_has_what_it_reads(
    reading: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    name: str,
    environment: bool,
    file: bool,
) -> None:
    first = name_of(kind, name)
    assert name_of(kind, name) == first
    monkeypatch.setenv("USER_STEP", "2")
    for loaded in ("reading_functions", "helper_of_user_functions"):
        sys.modules.pop(loaded, None)
    second = name_of(kind, name)
    assert (second != first) is environment
    (reading.parent / "steps.json").write_text("[2]")
    sys.modules.pop("reading_functions", None)
    third = name_of(kind, name)
    assert (third != second) is file
    (reading.parent / "helper_of_user_functions.py").write_text("def moved(x, by): return -x\n")
    assert name_of(kind, name) != third


@pytest.mark.parametrize("kind", KINDS)
def test_it_may_change_what_it_holds_while_it_runs(reading: Path, kind: str) -> None:
    name = name_of(kind, "counting")
    function = UserFunction.imported(kind, name, "a function of images")
    function(IMAGES)
    assert UserFunction.imported(kind, name, "a function of images").name == name
    assert name_of(kind, "counting") == name
    reading.write_text(READS + "# another\n")
    assert UserFunction.imported(kind, name, "a function of images").name == name
    reading.write_text(READS + "ANOTHER = 1\n")
    with pytest.raises(SpecError, match="was changed; run the command again"):
        UserFunction.imported(kind, name, "a function of images")
