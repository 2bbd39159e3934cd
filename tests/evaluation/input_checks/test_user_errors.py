"""What a network raises in the middle of a run is reported in words; faults of ours are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dentbench.api import evaluate
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.errors import ModelError
from dentbench.evaluation.input_checks.user_errors import errors_in_words
from dentbench.spec.evaluation import AttackSpec
from tests.panel.honest import Identity
from tests.panel.subjects import EPS, STEP, planted


def is_off(x: Tensor) -> bool:
    """Whether an image is none of the natural images, which lie on a grid."""
    return bool((((x / STEP) - (x / STEP).round()).abs() > 1e-3).any())


class NoSmallBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = planted()[0]

    def forward(self, x: Tensor) -> Tensor:
        if 2 < len(x) < 12:
            raise RuntimeError("too few images")
        logits: Tensor = self.network(x)
        return logits


class _NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.off = is_off(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if ctx.off:
            raise RuntimeError("no way back")
        return grad


class NoGradientNearby(NoSmallBatch):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(_NoBackward.apply(x))
        return logits


class NoAnswerNearby(NoSmallBatch):
    def forward(self, x: Tensor) -> Tensor:
        if is_off(x):
            raise RuntimeError("the matrix is singular")
        logits: Tensor = self.network(x)
        return logits


def attacked(network: nn.Module, results: Path) -> Any:
    _, images, labels = planted()
    return evaluate(
        network,
        images[:15],
        labels[:15],
        defense=Identity,
        attack=AttackSpec(name="apgd-ce", eps=EPS, iterations=2),
        batch_size=12,
        results=results,
        progress=None,
    )


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (NoSmallBatch, "the model fails: too few images.* every finished batch is kept"),
        (NoGradientNearby, "the gradient of an answer cannot be computed: no way back"),
        (NoAnswerNearby, "the model answered with NaN or infinite logits, or raised an error"),
    ],
)
def test_a_network_that_fails_in_a_run_is_refused_in_words(
    network: type[nn.Module], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=said):
        attacked(network(), tmp_path)


def test_other_errors_keep_their_traceback() -> None:
    network = CountedNetwork(planted()[0], CallCounter())
    try:
        [][0]
    except IndexError as error:
        assert errors_in_words(network, error) is error
