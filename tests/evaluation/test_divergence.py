"""Dent that diverges at an adversarial batch alone: those images are wrong, and the run goes on."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dentbench.api import Evaluated, evaluate
from dentbench.attacks.checks import failed
from dentbench.errors import ModelError
from dentbench.spec.evaluation import AttackSpec, DentSpec
from tests.helpers import compared

COUNT, SURE = 8, 130.0


class Sharp(nn.Module):
    """So sure of natural images that their entropy has no gradient; of adversarial points it has.

    With a learning rate near float32's largest number dent then has no finite parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 2e4 * self.layers(x)
        return logits


@pytest.fixture(scope="module")
def subject() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    network, images = Sharp().eval(), torch.rand(32, 3, 8, 8)
    with torch.no_grad():
        logits = network(images)
    best = logits.topk(2, 1).values
    sure = (best[:, 0] - best[:, 1] > SURE).nonzero().flatten()[:COUNT]
    assert len(sure) == COUNT
    return network, images[sure], logits.argmax(1)[sure]


def evaluated(subject: tuple[nn.Module, Tensor, Tensor], results: Path, **how: Any) -> Evaluated:
    attack = AttackSpec(name="apgd-ce", eps=Fraction(1, 80), iterations=4)
    settings: Any = {"batch_size": 4, "force": True, "progress": None, "protocols": "transfer"}
    return evaluate(*subject, attack=attack, results=results, **settings, **how)


@pytest.mark.parametrize("mode", ["instance", "batch"])
def test_it_counts_as_wrong_and_the_run_goes_on(
    mode: str, subject: tuple[nn.Module, Tensor, Tensor], tmp_path: Path
) -> None:
    dent = DentSpec(
        mode=mode, steps=2, loss="entropy", statistics="running", optimizer="sgd", lr=1e38
    )
    whole = evaluated(subject, tmp_path / "whole", defense=dent).defended
    assert whole.natural_correct == COUNT
    assert whole.robust_correct <= whole.static_correct
    assert [check.name for check in failed(whole.checks) if check.name == "finite"] == ["finite"]
    evaluated(subject, tmp_path / "parts", defense=dent, pass_limit=1)
    assert compared(evaluated(subject, tmp_path / "parts", defense=dent).defended) == compared(
        whole
    )


@pytest.mark.parametrize("mode", ["instance", "batch"])
def test_at_natural_images_it_is_refused_with_the_remedy(
    mode: str, subject: tuple[nn.Module, Tensor, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))]
    soft = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    # A batch's own statistics may bring numbers back into range, on some CPUs.
    dent = DentSpec(mode=mode, steps=5, statistics="running", optimizer="sgd", lr=1e38)
    with pytest.raises(ModelError, match=r"lower learning rate \(--lr\)"):
        evaluated((soft, subject[1], soft(subject[1]).argmax(1)), tmp_path, defense=dent)
    assert not (tmp_path / "results.csv").exists()
