"""Natural accuracy that cannot be: chance, and the usual mistakes, each mended by its remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench.compute.backend import Engine
from dentbench.errors import DentBenchError, ModelError, SpecError
from dentbench.evaluation.checks import sanity_checks
from dentbench.evaluation.input_checks.natural_accuracy import (
    Remedy,
    allowed,
    is_chance,
    remedy,
)
from dentbench.spec.attack import parse_eps
from dentbench.spec.evaluation import AttackSpec
from dentbench.spec.plausible import remark, require_plausible
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model

DIGITS = load_dataset("digits")
X, Y = DIGITS.images[:64], DIGITS.labels[:64]
NET = load_model("digits-nominal").network


def test_chance_is_a_binomial_question() -> None:
    assert is_chance(6, 64, 10) and is_chance(0, 16, 10) and not is_chance(40, 64, 10)
    assert not is_chance(0, 15, 10), "too few to say"
    assert is_chance(34, 64, 2) and not is_chance(50, 64, 2)


def test_what_data_allow_is_what_was_published() -> None:
    best = allowed(DIGITS.name)
    assert best is not None and 0.9 < best <= 1 and allowed("my data") is None


def colored(classify: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a classifier of color images, which looks at the first channel."""
    return lambda x: classify(x[:, :1])


@pytest.mark.parametrize(
    ("classify", "images", "labels", "words"),
    [
        (NET, X, Y + 1, r"labels shifted by -1 \(they begin at 1\)"),
        (NET, X, (Y - 1) % 10, r"labels shifted by \+1"),
        (NET, X, (Y + 3) % 10, r"labels shifted by -3"),
        (NET, X, torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])[Y], "another order"),
        (lambda x: NET(x / 255), X, Y, "0 to 255"),
        (lambda x: NET(0.5 * x + 0.5), X, Y, "--normalize"),
        (NET, 1 - X, Y, "colors inverted"),
        (NET, X.transpose(2, 3), Y, "rows and columns"),
        (colored(NET), torch.cat([0.5 + 0 * X, 0 * X, X], 1), Y, "BGR"),
    ],
)
def test_the_usual_mistakes_are_found(
    classify: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, words: str
) -> None:
    actual = remedy(classify, images, labels)
    assert actual is not None and actual.correct > 0.8 * actual.of
    assert re.search(words, actual.sentence), actual.sentence


def test_what_is_right_or_hopeless_has_no_remedy() -> None:
    assert remedy(NET, X, Y) is None
    noise = torch.randint(0, 10, Y.shape, generator=torch.Generator().manual_seed(0))
    assert remedy(NET, X, noise) is None
    always = nn.functional.one_hot(torch.full((64,), 4), 10).float()
    assert remedy(lambda _: always, X, torch.zeros_like(Y)) is None, "one class has no order"


@pytest.mark.parametrize(
    ("correct", "published", "found", "words", "stops"),
    [
        (63, None, None, None, False),
        (40, None, None, None, False),
        (
            25,
            None,
            None,
            "far below the 99.* that is published of this data; the usual causes",
            False,
        ),
        (25, None, "with the labels shifted by -1", "shifted by -1 it is 93.8%", False),
        (
            40,
            98.0,
            None,
            "98% was published: this is another model or data; the usual causes",
            True,
        ),
        (
            40,
            98.0,
            "in BGR in place of RGB",
            "another model or data; in BGR in place of RGB it",
            True,
        ),
        (5, None, None, "no better than chance among 10 classes, far below .*; the usual", True),
    ],
)
def test_low_accuracy_is_a_warning_that_names_its_cause_and_chance_stops(
    monkeypatch: pytest.MonkeyPatch,
    correct: int,
    published: float | None,
    found: str | None,
    words: str | None,
    stops: bool,
) -> None:
    mended = None if found is None else Remedy(found, 60, 64)
    monkeypatch.setattr(sanity_checks, "_remedy", lambda *_: mended)
    context: Any = SimpleNamespace(worker=SimpleNamespace(classes=10))
    spec: Any = SimpleNamespace(data=SimpleNamespace(name=DIGITS.name))
    check = sanity_checks.natural_accuracy(correct, 64, published)
    actual, stop = sanity_checks.plausible(context, spec, check, correct, 64)
    assert stop == stops
    if words is None:
        assert actual == check
    else:
        assert re.search(words, actual.sentence), actual.sentence


def evaluated(folder: Path, labels: Tensor, **more: Any) -> Any:
    values = {"attack": "none"} | more
    return dentbench.evaluate(NET, X, labels, results=folder, progress="none", **values)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            (Y + 1) % 10,
            r"no better than chance among 10 classes; with the labels shifted by -1 .* it is ",
        ),
        (torch.arange(64) % 10, "no better than chance among 10 classes; the usual causes"),
    ],
)
def test_chance_stops_the_run_unless_it_is_forced(
    tmp_path: Path, labels: Tensor, words: str
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        evaluated(tmp_path, labels)
    assert "force=True" in str(caught.value) and not (tmp_path / "results.csv").exists()
    if "usual" in words:
        return  # once is enough
    static, _ = evaluated(tmp_path, labels, force=True)
    assert static.natural_correct < 16 and "no better than chance" in static.checks


@pytest.mark.parametrize(("shift", "stops"), [(0, False), (1, True), (9, True)])
def test_a_clear_mistake_stops_a_run_of_few_images(tmp_path: Path, shift: int, stops: bool) -> None:
    """Eight images are too few to call an accuracy chance, not to see labels that begin at 1."""

    def few(**more: Any) -> Any:
        labels = (NET(X[:8]).argmax(1) + shift) % 10
        shown = {"attack": "none", "results": tmp_path, "progress": "none"}
        return dentbench.evaluate(NET, X[:8], labels, **shown, **more)

    if stops:
        with pytest.raises(ModelError, match="with the labels shifted by"):
            few()
    assert few(force=True)[0].natural_correct == (0 if stops else 8)


class Colored(nn.Module):
    """An untrained network, whose constants make three channels of a gray image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        self.classify = nn.Linear(4 * 36, 10)
        nn.init.zeros_(self.classify.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of images normalized by channel."""
        answers: Tensor = self.classify(self.layers(x - torch.full((3, 1, 1), 0.5)))
        return answers


def test_chance_is_refused_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*values: Any) -> None:
        raise AssertionError("an engine was chosen")

    monkeypatch.setattr(Engine, "chosen", timed)
    with pytest.raises(ModelError, match="no better than chance among 10 classes; the usual"):
        dentbench.evaluate(Colored(), X, Y, attack="none", results=tmp_path, progress="none")
    with pytest.raises(AssertionError):
        evaluated(tmp_path, Y)
    with pytest.raises(AssertionError):
        evaluated(tmp_path, (Y + 1) % 10, force=True)


@pytest.mark.parametrize(("more", "label"), [(1, 10), (300, 300)])
def test_labels_that_have_no_output_are_told_in_their_own_words(
    tmp_path: Path, more: int, label: int
) -> None:
    with pytest.raises(DentBenchError, match=f"label {label} is in the data, but the model has 10"):
        evaluated(tmp_path, Y + more)


class Least(nn.Module):
    """Answers with the class that is least likely."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, their signs changed."""
        answers: Tensor = -self.network(x)
        return answers


def test_a_network_that_is_wrong_more_often_than_by_guessing_stops_too(tmp_path: Path) -> None:
    def evaluated(**more: Any) -> Any:
        return dentbench.evaluate(
            Least(NET), X, Y, attack="none", results=tmp_path, progress="none", **more
        )

    with pytest.raises(ModelError, match="no better than chance among 10 classes"):
        evaluated()
    assert evaluated(force=True)[0].natural_correct == 0


@pytest.mark.parametrize(
    ("norm", "eps", "words"),
    [
        ("Linf", "8", "did you mean 8/255"),
        ("Linf", "1.5", "did you mean 1.5/255"),
        ("Linf", "1", "did you mean 1/255"),
        ("L2", "128", "did you mean 128/255"),
        ("L2", "36", "did you mean 36/255"),
    ],
)
def test_an_eps_before_division_is_refused(norm: str, eps: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        require_plausible(norm, Fraction(eps))
    assert "--force" in str(caught.value)


@pytest.mark.parametrize(
    ("norm", "eps", "words"),
    [
        ("Linf", "0.031", "eps is 0.031 in Linf; if 8/255 is meant, write it so"),
        ("Linf", "0.0157", "if 4/255 is meant"),
        (
            "Linf",
            "0.5",
            "makes plain gray of any image; of CIFAR-10, 8/255 is usual in Linf, 0.5 i",
        ),
        ("L2", "8/255", "eps is 8/255 in L2, which hardly changes an image; of CIFAR-10, 8/255"),
        ("L1", "8/255", "hardly changes an image"),
        *(("Linf", eps, "") for eps in ("0", "8/255", "1.5/255", "0.2", "0.3", "0.02", "0.05")),
        *(("L2", eps, "") for eps in ("0", "0.2", "0.5", "128/255")),
        ("L1", "12", ""),
    ],
)
def test_an_eps_that_is_allowed_but_odd_is_told(norm: str, eps: str, words: str) -> None:
    told = remark(norm, parse_eps(eps))
    assert words in told and bool(words) == bool(told)


def test_an_odd_eps_is_told_before_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attack = AttackSpec(name="apgd-ce", eps=Fraction("0.0039"), iterations=1)
    evaluated(tmp_path, Y, attack=attack, protocols=("published",), force=True)
    assert sum("if 1/255 is meant" in record.getMessage() for record in caplog.records) == 1


def test_less_is_asked_for_where_an_eps_in_255ths_is_too_much() -> None:
    with pytest.raises(SpecError, match=r"eps is 300/255 in Linf.*; give less, or go on"):
        require_plausible("Linf", Fraction(300, 255))


def test_an_eps_that_makes_any_image_gray_is_refused() -> None:
    require_plausible("L2", Fraction(3), 3 * 224 * 224)
    require_plausible("Linf", Fraction(1, 2), 64)
    require_plausible("L1", Fraction(12), 3072)
    for norm, eps in (("L2", Fraction(4)), ("L1", Fraction(32))):
        with pytest.raises(SpecError, match="plain gray"):
            require_plausible(norm, eps, 64)


@pytest.mark.parametrize(
    "more", [{"eps": 8, "attack": "quick"}, {"attack": AttackSpec(name="quick", eps=8)}]
)
def test_from_python_too(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(DentBenchError, match="did you mean 8/255"):
        evaluated(tmp_path, Y, **more)
