"""An attack of a user: named with the hash of its source, checked, and judged as any."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

import dentbench
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.user_attack import UserAttack, attack_name_of
from dentbench.errors import ModelError, SpecError
from dentbench.spec.evaluation import AttackSpec
from tests.reference import tiny_network

SOURCE = '''
import torch
def fgsm(classify, images, labels, threat):
    """One step along the sign of the gradient."""
    leaf = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(classify(leaf), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    return images + 2 * threat.eps * gradient.sign()
def short(classify, images, labels, threat):
    return images[:1]
def nan(classify, images, labels, threat):
    return images * float("nan")
def raising(classify, images, labels, threat):
    raise KeyError("a key")
number = 3
'''
EPS = Fraction(1, 25)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "user_attacks.py"
    path.write_text(SOURCE)
    return path


def run(results: Path, attack: str) -> Any:
    model = tiny_network().eval()
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)
    return dentbench.evaluate(
        model,
        images,
        labels,
        defense="norm",
        attack=AttackSpec(name=attack, eps=EPS),
        results=results,
        progress="none",
    )


def test_it_attacks_both_and_is_part_of_the_key(module: Path, tmp_path: Path) -> None:
    actual = run(tmp_path / "results", "user_attacks:fgsm")
    name = attack_name_of("user_attacks:fgsm")
    assert actual.static.attack == actual.defended.attack == name
    assert "attack of the user (not AutoAttack)" in actual.static.attack_label
    model = tiny_network().eval()
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)
    leaf = images.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(leaf), labels, reduction="sum").backward()
    assert leaf.grad is not None
    points = (images + float(EPS) * leaf.grad.sign()).clamp(0, 1)
    expected = int((model(points).argmax(1) == labels).sum())
    assert actual.static.robust_correct == expected < 6
    module.write_text(SOURCE + "# more\nother = 1\n")
    assert attack_name_of("user_attacks:fgsm") != name
    with pytest.raises(SpecError, match="was changed"):
        UserAttack(name, model, ThreatModel("Linf", float(EPS)), seed=0)


def test_a_bad_one_is_one_sentence(module: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not points of shape"):
        run(tmp_path / "results", "user_attacks:short")
