"""dentbench.evaluate: any module and tensors, which it leaves as they were."""

from __future__ import annotations

import copy
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
import torch

import dentbench
from dentbench import AttackSpec, DentSpec
from dentbench.errors import DataError
from dentbench.records.results_csv import read
from dentbench.spec.dent import LOSSES, LossCard
from tests.reference import tiny_network

ATTACK = AttackSpec(name="apgd-ce", eps=Fraction(2, 255), iterations=2)


def test_evaluates_a_module_and_leaves_it_alone(tmp_path: Path) -> None:
    model = tiny_network().train()
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    both = dentbench.evaluate(
        model, images, labels, defense=DentSpec(steps=1), attack=ATTACK, results=tmp_path
    )
    static, dent = both
    pd.testing.assert_frame_equal(both.to_pandas(), dentbench.read_results(tmp_path))
    assert (static.mode, dent.mode, dent.n) == ("static", "instance", 6)
    assert read(tmp_path) == [static, dent]
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def least_likely(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mean probability of the least likely class."""
    return logits.softmax(1).min(1).values.sum() / count


def test_a_loss_of_the_user_is_adapted_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_values", "_canonical"):  # the catalogue is as it was after the test
        monkeypatch.setattr(LOSSES, name, {**getattr(LOSSES, name)})
    card = LossCard(function=f"{__name__}:least_likely", separable=True)
    LOSSES.add("least-likely", card)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    _, dent = dentbench.evaluate(
        tiny_network(),
        images,
        torch.arange(4),
        defense=DentSpec(loss="least-likely", steps=1),
        attack=ATTACK,
        results=tmp_path,
    )
    assert (dent.loss, dent.separable, dent.n) == ("least-likely", True, 4)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.rand(2, 3, 8, 8) + 1, torch.zeros(2, dtype=torch.long), r"\[0, 1\]"),
        (torch.rand(2, 3, 8, 8), torch.zeros(3, dtype=torch.long), "labels"),
        (torch.rand(2, 3, 8, 8), torch.tensor([0.5, 1.0]), "labels"),
        (torch.rand(2, 3, 8), torch.zeros(2, dtype=torch.long), "the data given"),
    ],
)
def test_bad_tensors_are_refused(
    images: torch.Tensor, labels: torch.Tensor, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        dentbench.evaluate(tiny_network(), images, labels, attack=ATTACK, results=tmp_path)


def test_importing_dentbench_loads_nothing_heavy() -> None:
    code = "import sys, dentbench; dir(dentbench); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dentbench.nothing
