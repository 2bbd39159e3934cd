"""Compare a network's answers and gradients on a few images with another network's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from dentbench.attacks.base import Classifier, scale_of
from dentbench.attacks.rng import seed_torch

FEW: Final = 2
"""The number of images to compare networks on, where answers do not depend on the number."""

LOGITS: Final = 1e-3
"""The part of their range by which logits may differ; rounding takes a hundredth of it."""

GRADIENTS: Final = 2e-2
"""The part of its length by which a gradient may differ: a rounded ReLU changes a little."""


ROUNDINGS: Final = 8
"""How many roundings of a network's numbers may add up in half precision.

In a gradient, where ReLUs turn, three times as many.
"""


@dataclass(frozen=True)
class Reference:
    """A network and images to compare others with it on.

    ``pure``: whether a second call of the network gives the same answer. ``whole`` (B, C, H, W):
    the first declared batch, of which ``images`` may be a part.
    """

    network: nn.Module
    images: Tensor
    pure: bool
    whole: Tensor

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> Reference | None:
        """Return the reference on a few images; on all where answers depend on how many there are.

        ``images`` (B, C, H, W): the first declared batch. None where the network does not
        answer, which other checks explain.
        """
        images = _off_kinks(images)
        few = images[:FEW]
        alone, whole = (attempt(copy.deepcopy(network), x) for x in (few, images))
        if alone is None and whole is None:
            return None
        same = alone is not None and (whole is None or not logits_apart(alone, whole[: len(few)]))
        shown = few if same else images
        twice = copy.deepcopy(network)
        first, second = (answer_of(twice, shown) for _ in range(2))
        pure = torch.equal(first.nan_to_num(), second.nan_to_num())
        return cls(network, shown, pure, images if whole is not None else shown)

    @property
    def rounding(self) -> float:
        """The relative rounding of the coarsest numbers that the network computes with."""
        parameters = self.network.parameters()
        kinds = {p.dtype for p in parameters if p.dtype.is_floating_point}
        return max((torch.finfo(kind).eps for kind in kinds), default=0.0)

    def difference(self, make: Callable[[], Classifier]) -> str:
        """Describe how the classifier made answers otherwise than the network, or ""."""
        for gradients in (False, True):
            right, other = copy.deepcopy(self.network), make()
            if gradients:
                ours, gradient = answer_and_gradient(right, self.images)
                theirs, another = answer_and_gradient(other, self.images)
            else:
                ours, theirs = answer_of(right, self.images), answer_of(other, self.images)
                gradient = another = None
            mode = "with" if gradients else "without"
            apart = logits_apart(ours, theirs, self.rounding)
            if apart:
                return f"its logits {mode} gradients differ by {apart}"
            if gradient is not None and another is not None:
                apart = gradients_apart(gradient, another, self.rounding)
                if apart:
                    return f"its input gradient differs by {apart}"
        return ""


def _off_kinks(images: Tensor) -> Tensor:
    """Return images a little beside these: black images may lie on the kinks of all ReLUs.

    There the smallest step may turn the gradient.
    """
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(images.shape, generator=generator).to(images)
    return 0.96 * images + 0.04 * noise


@contextmanager
def seeded(images: Tensor) -> Iterator[None]:
    """Draw the same random numbers inside every block, and leave the stream as it was."""
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        seed_torch(0, on_gpu=images.is_cuda)
        yield


def answer_of(network: Classifier, images: Tensor) -> Tensor:
    """Return the logits of images, without a graph."""
    with torch.no_grad(), seeded(images):
        logits: Tensor = network(images.clone()).detach().clone()
    return logits


def attempt(network: Classifier, images: Tensor) -> Tensor | None:
    """Return the logits, None where the network refuses images of this number, or lacks memory."""
    try:
        return answer_of(network, images)
    except Exception:  # a network may raise anything
        return None


def answer_and_gradient(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return logits, and the gradient of some function of them; None where they have none."""
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), seeded(images):
        logits = network(leaf.clone())
        if not logits.requires_grad:
            return logits.detach(), None
        total = logits.float().nan_to_num().logsumexp(1).sum()
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return logits.detach(), gradient


def logits_apart(ours: Tensor, theirs: Tensor, rounding: float = 0.0) -> str:
    """Return in words by how much logits differ, or ""; ``rounding``: a number's relative error."""
    if ours.shape != theirs.shape:
        return f"their shape, {tuple(theirs.shape)} for {tuple(ours.shape)}"
    ours, theirs = ours.double().nan_to_num(), theirs.double().nan_to_num()
    spread = scale_of(ours) if ours.numel() else 0.0
    most = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    if most <= max(LOGITS, ROUNDINGS * rounding) * max(spread, 1e-6):
        return ""
    return f"up to {most:.3g} (they range over {spread:.3g})"


def gradients_apart(ours: Tensor, theirs: Tensor, rounding: float = 0.0) -> str:
    """Return in words by how much a gradient differs, or ""; see :func:`logits_apart`."""
    ours, theirs = ours.double().nan_to_num(), theirs.double().nan_to_num()
    length, most = float(ours.norm()), float((ours - theirs).norm())
    if most <= max(GRADIENTS, 3 * ROUNDINGS * rounding) * max(length, 1e-6):
        return ""
    return f"{most:.3g} (its length is {length:.3g})"
