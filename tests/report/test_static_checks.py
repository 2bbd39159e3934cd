"""A static model whose own checks failed: told wherever its numbers are, and decides nothing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from torch import Tensor, nn

from dentbench.api import Evaluated, evaluate
from dentbench.report.formats.page import to_page
from dentbench.report.formats.render import render
from dentbench.report.tables.records import all_records
from dentbench.spec.evaluation import AttackSpec
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.images.arrays import slice_of
from dentbench.zoo.models import load_model

COUNT = 24
ODD = "look like probabilities"
FORMS = ("markdown", "latex", "html", "csv", "json")


class Ends(nn.Module):
    """The embedded network, whose sharp logits end in a softmax or not."""

    def __init__(self, soft: bool) -> None:
        super().__init__()
        self.inner = load_model("digits-nominal").network
        self.soft = soft

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return (20 * logits).softmax(1) if self.soft else logits


class Same(nn.Module):
    """No defense at all."""

    separable = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


@pytest.fixture(scope="module", params=[True, False], ids=["softmax", "logits"])
def actual(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    results = tmp_path_factory.mktemp("results")
    images, labels, _ = slice_of(load_dataset("digits"), 0, COUNT)
    return evaluate(
        Ends(request.param).eval(),
        images,
        labels,
        defense=Same,
        attack=AttackSpec(name="apgd-ce", eps=Fraction(1, 20), iterations=3),
        results=results,
        progress=None,
    )


def test_failed_checks_of_the_static_model_are_told_everywhere(actual: Evaluated) -> None:
    soft = "logits" in (actual.defended.static_checks or "")
    records = [actual.static, actual.defended]
    texts = [actual._repr_html_(), *(render(all_records(records), form) for form in FORMS)]
    texts += [render(all_records([actual.static]), "markdown"), to_page(records, [], Path("none"))]
    for text in texts:
        assert (ODD in text) == soft, text


def test_nothing_is_decided_beside_it(actual: Evaluated) -> None:
    soft = "logits" in (actual.defended.static_checks or "")
    said = actual.verdict
    assert actual.defended.gained == actual.defended.lost == 0
    if soft:
        assert said.kind == "undecided"
        assert "the static model's check logits failed" in said.sentence
        assert "hand in the logits" in said.sentence
    else:
        assert not any("check" in doubt for doubt in said.doubts)
