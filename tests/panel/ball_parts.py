"""Planted defenses that are weak in a part of the ball alone, where no step of an attack ends.

Elsewhere each is the smoothed network, and truly robust. An attacker who asks there breaks more
images than the static model loses: ``broken`` counts them, by points in closed form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.panel.memory import Around
from tests.panel.subjects import (
    CLASSES,
    SIDE,
    Linear,
    planted,
    projected,
    reach_of,
    roughly,
    smooth,
)


class WeakInAPart(Around):
    """Weak at points of which :meth:`there` says so."""

    roughness = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.there(x)[:, None], self.weak()(x), self.strong(x))

    def weak(self) -> Linear:
        """Return the network that it is there."""
        return roughly(self.roughness)

    def strong(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) anywhere else."""
        logits: Tensor = projected(planted()[0])(x)
        return logits

    def there(self, x: Tensor) -> Tensor:
        """Return at which points (B,) it is weak."""
        raise NotImplementedError

    def step(self, slope: Tensor) -> Tensor:
        """Return a step (B, values) along slopes, in radii of the ball, that ends in the part."""
        raise NotImplementedError


class WeakInAShell(WeakInAPart):
    """Weak where the pixel that has moved most is at 0.6 to 0.9 of eps."""

    def there(self, x: Tensor) -> Tensor:
        return (_moved(x).amax(1) - 0.75).abs() < 0.15

    def step(self, slope: Tensor) -> Tensor:
        return 0.89 * slope.sign()


class WeakInAThinShell(WeakInAPart):
    """Weak where it is at 0.64 to 0.72 of eps."""

    roughness = 5.0

    def there(self, x: Tensor) -> Tensor:
        return (_moved(x).amax(1) - 0.68).abs() < 0.04

    def step(self, slope: Tensor) -> Tensor:
        return 0.71 * slope.sign()


class WeakDeepInside(WeakInAPart):
    """Weak where it is at 0.2 to 0.45 of eps."""

    roughness = 6.0

    def there(self, x: Tensor) -> Tensor:
        return (_moved(x).amax(1) - 0.325).abs() < 0.125

    def step(self, slope: Tensor) -> Tensor:
        return 0.44 * slope.sign()


class FlatInAShell(WeakInAShell):
    """Shows its label alone in the shell, without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        weak = 5 * F.one_hot(self.weak()(x).argmax(1), CLASSES).to(x)
        return torch.where(self.there(x)[:, None], weak, self.strong(x))


class WeakWhereAHalfMoves(WeakInAPart):
    """Weak where one half of the columns stays."""

    roughness = 6.0

    def there(self, x: Tensor) -> Tensor:
        halves = _moved(x).view(-1, SIDE, SIDE).unflatten(2, (2, SIDE // 2)).amax((1, 3))
        return (halves.amin(1) < 0.02) & (halves.amax(1) > 0.3)

    def step(self, slope: Tensor) -> Tensor:
        left = torch.arange(SIDE * SIDE) % SIDE < SIDE // 2
        return left * slope.sign()


class WeakWhereBrighter(WeakInAPart):
    """Weak where half of the pixels are brighter and none is darker."""

    roughness = 5.0

    def there(self, x: Tensor) -> Tensor:
        away = _away(x)
        return (away > -1e-3).all(1) & ((away > 0.9).double().mean(1) - 0.5).abs().le(0.3)

    def step(self, slope: Tensor) -> Tensor:
        return slope.sign().clamp_min(0)


class WeakWhereSmooth(WeakInAPart):
    """Weak where neighbours move nearly alike, to changes that are smooth."""

    def weak(self) -> Linear:
        weight = planted()[0].weight.detach().view(CLASSES, 1, SIDE, SIDE)
        draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
        weight = (smooth(weight) + 6 * F.avg_pool2d(draw, 3, 1, 1)).flatten(1)
        return Linear(weight, -weight.sum(1) / 2)

    def there(self, x: Tensor) -> Tensor:
        away = _away(x).view_as(x)
        rough = torch.cat([away.diff(dim=axis).flatten(1) for axis in (2, 3)], 1).abs().amax(1)
        return (rough < 0.75) & (away.flatten(1).abs().amax(1) > 0.3)

    def step(self, slope: Tensor) -> Tensor:
        side = round(slope.shape[1] ** 0.5)
        signs = slope.sign().view(-1, 1, side, side)
        return F.avg_pool2d(signs, 3, 1, 1).flatten(1)


class WeakWhereUneven(WeakInAPart):
    """Weak where less than half of the pixels have moved three quarters as far as any."""

    roughness = 2.0

    def there(self, x: Tensor) -> Tensor:
        most = _moved(x).amax(1, keepdim=True)
        return (_moved(x) >= 0.75 * most).double().mean(1) <= 0.5

    def step(self, slope: Tensor) -> Tensor:
        return torch.where(_largest_half(slope), 1.0, 0.74) * slope.sign()


class WeakWhereFewMove(WeakInAPart):
    """Weak where half of the pixels stay, but not beside the image."""

    def there(self, x: Tensor) -> Tensor:
        return ((_moved(x) < 0.02).double().mean(1) >= 0.5) & (_moved(x).amax(1) > 0.5)

    def step(self, slope: Tensor) -> Tensor:
        return _largest_half(slope) * slope.sign()


class WeakInEightBits(WeakInAPart):
    """Weak at points that a file of 8 bits holds, which natural images here are not."""

    def there(self, x: Tensor) -> Tensor:
        return (255 * x - (255 * x).round()).abs().flatten(1).amax(1) < 5e-3

    def step(self, slope: Tensor) -> Tensor:
        return slope.sign()


class WeakInAShellAsStatic(WeakInAShell):
    """A static model that attacks take for robust."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())


def _moved(x: Tensor) -> Tensor:
    """Return how far pixels (B, values) are from the nearest natural image, in radii of a ball."""
    return _away(x).abs()


def _away(x: Tensor) -> Tensor:
    """Return how pixels (B, values) have moved from the nearest natural image, in such radii."""
    own = planted()[1].flatten(1)
    flat = x.detach().flatten(1)
    nearest = torch.cdist(flat, own, p=float("inf")).argmin(1)
    return (flat - own[nearest]) / reach_of(x)


def _largest_half(slope: Tensor) -> Tensor:
    rank = slope.abs().argsort(1, descending=True).argsort(1)
    return rank < slope.shape[1] // 2


def broken(defense: type[WeakInAPart], count: int) -> int:
    """Return of how many of the first images a point is known that it is wrong at."""
    network, images, labels = planted()
    asked, x, y = defense(network), images[:count], labels[:count]
    weights = asked.weak().weight
    wrong = asked(x).argmax(1) != y
    for other in range(1, CLASSES):
        slope = weights[(y + other) % CLASSES] - weights[y]
        points = (x.flatten(1) + reach_of(x) * asked.step(slope)).view_as(x)
        if defense is WeakInEightBits:
            low, high = x - reach_of(x), x + reach_of(x)
            points = torch.where(points > x, (255 * high).floor(), (255 * low).ceil()) / 255
        assert bool(asked.there(points).all())
        wrong |= asked(points).argmax(1) != y
    return int(wrong.sum())
