"""Networks and images whose robust accuracy is known: in closed form, or by linear programs."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

COUNT, CLASSES, SIDE = 120, 4, 6
EPS = Fraction(1, 20)
STEP = 0.05
"""Pixels of the planted images are multiples of it, and eps is one of it."""

DIGITS_EPS = Fraction(1, 5)


def reach_of(images: Tensor) -> float:
    """Return the eps that images (B, C, H, W) of this size are attacked with."""
    return float(EPS if images.shape[-1] == SIDE else DIGITS_EPS)


class Linear(nn.Module):
    """Logits W x + b of images (B, 1, 6, 6)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = F.linear(x.flatten(1), self.weight, self.bias)
        return logits

    def robust(self, x: Tensor, labels: Tensor, eps: float) -> Tensor:
        """The closed form (B,): right for every point within eps, the box not counted."""
        margins = self(x).gather(1, labels[:, None]) - self(x)
        reach = (self.weight[labels][:, None] - self.weight).abs().sum(2)
        own = F.one_hot(labels, CLASSES).bool()
        robust: Tensor = ((margins > eps * reach) | own).all(1)
        return robust


class Wavy(nn.Module):
    """A smooth linear model beside fine waves, which a tiny step turns over and noise averages out.

    A wave in direction u, sin(w u.x), has mean exp(-(w |u| sigma)^2 / 2) sin(w u.x) under noise of
    standard deviation sigma: nothing is left of it at sigma 0.1.
    """

    def __init__(self, smooth_part: Linear, directions: Tensor, height: float) -> None:
        super().__init__()
        self.smooth_part = smooth_part
        self.register_buffer("directions", directions)
        self.height = height

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.sin(60 * F.linear(x.flatten(1), self.directions))
        logits: Tensor = self.smooth_part(x) + self.height * waves
        return logits


class Huge(nn.Module):
    """The planted model with logits so large that their squares are infinite."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 1e30 * planted()[0](x)
        return logits


def smooth(x: Tensor) -> Tensor:
    """The mean of every 2 x 2 block, in the place of its pixels: a projection."""
    return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)


@cache
def planted() -> tuple[Linear, Tensor, Tensor]:
    """A linear model with smooth and rough weights, images far from 0 and 1, and their labels."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(CLASSES, 1, SIDE, SIDE, generator=generator)
    low = smooth(draw)
    rough = torch.randn(draw.shape, generator=generator)
    rough = 1.5 * (rough - smooth(rough))
    labels = torch.arange(COUNT) % CLASSES
    strength = 0.18 + 0.15 * torch.rand(COUNT, 1, 1, 1, generator=generator)
    pattern = low - low.mean(0)
    noise = 0.05 * torch.randn(COUNT, 1, SIDE, SIDE, generator=generator)
    images = 0.5 + (strength * pattern[labels] + noise).clamp(-0.35, 0.35)
    images = STEP * (images / STEP).round()
    weight = (low + rough).flatten(1)
    return Linear(weight, -weight.sum(1) / 2), images, labels


def projected(model: Linear) -> Linear:
    """The linear model that first smooths its images."""
    weight = smooth(model.weight.detach().view(CLASSES, 1, SIDE, SIDE)).flatten(1)
    return Linear(weight, model.bias.detach())


def roughened(model: Linear) -> Linear:
    """The linear model with twice the weights that only the attacker uses: truly weaker."""
    weight = model.weight.detach()
    low = smooth(weight.view(CLASSES, 1, SIDE, SIDE)).flatten(1)
    weight = weight + (weight - low)
    return Linear(weight, -weight.sum(1) / 2)


def otherwise_rough() -> Linear:
    """A linear model with other rough weights, as weak: the planted model's points are not its."""
    return roughly(1.5)


@cache
def roughly(roughness: float) -> Linear:
    """A linear model with other rough weights of some size: the larger, the weaker."""
    low = smooth(planted()[0].weight.detach().view(CLASSES, 1, SIDE, SIDE))
    rough = torch.randn(low.shape, generator=torch.Generator().manual_seed(5))
    weight = (low + roughness * (rough - smooth(rough))).flatten(1)
    return Linear(weight, -weight.sum(1) / 2)


@cache
def wavy() -> Wavy:
    """The planted model with its rough weights replaced by waves, which attacks turn over."""
    model = projected(planted()[0])
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(CLASSES, SIDE * SIDE, generator=generator)
    return Wavy(model, F.normalize(directions), 1.5)


@cache
def class_means() -> Tensor:
    """One prototype (4, 36) of each class: the mean of its images."""
    _, images, labels = planted()
    return torch.stack([images[labels == number].flatten(1).mean(0) for number in range(CLASSES)])


def prototypes_as_linear() -> Linear:
    """The nearest class mean as the linear model that it is: -|x - p|^2 = 2 p x - |p|^2 + c."""
    means = class_means()
    return Linear(2 * means, -means.square().sum(1))


@cache
def stored_images() -> Tensor:
    """The last three images of each class (12, 1, 6, 6): what a purifier projects to."""
    return planted()[1][-3 * CLASSES :]


def nearest_stored_robust(count: int) -> Tensor:
    """Which of the first images (N,) no point within eps brings nearer to a stored one of its own.

    One linear program for each image and each stored image q that the model sees as another
    class: is there x in the ball and the box with |x - q| <= |x - p| for every p of its class?
    """
    model, images, labels = planted()
    stored = stored_images()
    seen = model(stored).argmax(1)
    flat = stored.flatten(1).double()
    robust = torch.ones(count, dtype=torch.bool)
    for row in range(count):
        x = images[row].flatten().double()
        low, high = (x - float(EPS)).clamp_min(0), (x + float(EPS)).clamp_max(1)
        box = list(zip(low.tolist(), high.tolist(), strict=True))
        own = flat[seen == labels[row]]
        for q in flat[seen != labels[row]]:
            if not len(own) or _reachable(q, own, box):
                robust[row] = False
                break
    return robust


def _reachable(q: Tensor, own: Tensor, box: list[tuple[float, float]]) -> bool:
    """Whether a point of the box is nearer to q than to every point of ``own``."""
    # Only here: new processes that judge a planted defense load this module.
    from scipy.optimize import linprog

    # |x - q|^2 <= |x - p|^2  <=>  2 (p - q) x <= |p|^2 - |q|^2
    sides = (2 * (own - q)).numpy()
    limits = (own.square().sum(1) - q.square().sum()).numpy()
    result = linprog(np.zeros(len(q)), A_ub=sides, b_ub=limits, bounds=box, method="highs")
    return bool(result.status == 0)


def robust_count(model: Linear, count: int = COUNT, eps: float = float(EPS)) -> int:
    """How many of the first images a linear model is robust on, in closed form."""
    _, images, labels = planted()
    return int(model.robust(images[:count], labels[:count], eps).sum())


def robust_count_in_l2(eps: Fraction) -> int:
    """How many images the planted model is robust on in L2, in closed form."""
    model, images, labels = planted()
    margins = model(images).gather(1, labels[:, None]) - model(images)
    reach = (model.weight[labels][:, None] - model.weight).norm(dim=2)
    own = F.one_hot(labels, CLASSES).bool()
    return int(((margins > float(eps) * reach) | own).all(1).sum())


def digits(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The embedded robust digits network, and the first images and labels of its data set."""
    from dentbench.zoo.datasets import load_dataset
    from dentbench.zoo.images.arrays import slice_of
    from dentbench.zoo.models import load_model

    images, labels, _ = slice_of(load_dataset("digits"), 0, count)
    return load_model("digits-robust").network, images, labels
