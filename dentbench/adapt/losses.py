"""The losses that dent minimizes at test time, each with a card in ``dentspec.py``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor

from dentbench.dentspec import LOSSES

Loss: TypeAlias = Callable[[Tensor, int], Tensor]
"""Maps logits (B, C) and the number of images that a mean is over to a scalar."""

SHOT_EPS: Final = 1e-5


def entropy(logits: Tensor, count: int) -> Tensor:
    """Return the mean Shannon entropy (nats) of the softmax of ``logits`` (B, C).

    The sum over the images is divided by ``count``. Source: the paper, section 2.2.
    """
    return -(logits.softmax(1) * logits.log_softmax(1)).sum() / count


def shot(logits: Tensor, count: int) -> Tensor:
    """Return the mean entropy minus the entropy of the batch-mean prediction.

    ``logits`` (B, C); both logarithms are of p + 1e-5. The second term couples the images of a
    batch, so the mean is always over the batch given. Source: the released code's ``shot``.
    """
    del count
    probabilities = logits.softmax(1)
    mean = probabilities.mean(0)
    per_image = -(probabilities * torch.log(probabilities + SHOT_EPS)).sum(1)
    return per_image.mean() + (mean * torch.log(mean + SHOT_EPS)).sum()


def load_loss(name: str) -> Loss:
    """Return the function of a loss that has a card."""
    module, _, function = LOSSES[name].function.partition(":")
    loss: Loss = getattr(importlib.import_module(module), function)
    return loss
