"""A user's attack or protocol: whatever is wrong with it is one sentence, of either kind."""

from __future__ import annotations

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
@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("short", ModelError, r"returned \(1, 3, 8, 8\), not points of shape \(4, 3, 8, 8\)"),
        ("text", ModelError, "returned str, not points of shape"),
        ("whole", ModelError, "returned points of type torch.int64, not floating point numbers"),
        ("nan", ModelError, "returned points that are not finite numbers"),
        ("raising", ModelError, "fails: 'a key'"),
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
