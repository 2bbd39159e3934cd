"""The losses that dent minimizes at test time, each with a card in ``spec/dent.py``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import Tensor

from dentbench.spec.dent import LOSSES

Loss: TypeAlias = Callable[[Tensor, int], Tensor]
"""Maps logits (B, C) and the number of images that a mean is over to a scalar."""

LossAndGradient: TypeAlias = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Maps the same to the scalar and its gradient in the logits, both without a graph."""

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


def _entropy_and_gradient(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    logs = logits.log_softmax(1)
    probabilities = logs.exp()
    per_image = -(probabilities * logs).sum(1, keepdim=True)
    return per_image.sum() / count, probabilities * (logs + per_image) / -count


def _shot_and_gradient(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    del count
    images = len(logits)
    probabilities = logits.softmax(1)
    rows = torch.cat([probabilities, probabilities.mean(0, keepdim=True)])  # the mean comes last
    shifted = rows + SHOT_EPS
    logs = shifted.log()
    of_images, of_mean = (rows * logs).sum(1).split([images, 1])
    slopes = logs + rows / shifted
    of_probabilities = (slopes[images:] - slopes[:images]) / images
    along = (probabilities * of_probabilities).sum(1, keepdim=True)
    return of_mean[0] - of_images.mean(), probabilities * (of_probabilities - along)


_WITH_GRADIENT: Final[Mapping[Loss, LossAndGradient]] = MappingProxyType(
    {entropy: _entropy_and_gradient, shot: _shot_and_gradient}
)
"""The closed forms: fewer operations than autograd takes, which counts for small networks.

Others need none."""


def with_gradient(loss: Loss) -> LossAndGradient:
    """Return a function for a loss and its gradient in the logits: closed form, or autograd."""

    def by_autograd(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            value = loss(logits, count)
            (gradient,) = torch.autograd.grad(value, logits)
        return value.detach(), gradient

    return _WITH_GRADIENT.get(loss, by_autograd)


def load_loss(name: str) -> Loss:
    """Return the function of a loss that has a card."""
    module, _, function = LOSSES[name].function.partition(":")
    loss: Loss = getattr(importlib.import_module(module), function)
    return loss
