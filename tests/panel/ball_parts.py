"""Planted defenses that are weak in a part of the ball alone, where no step of an attack ends.

Elsewhere each is the smoothed network, and truly robust. An attacker who asks there breaks more
images than the static model loses: ``broken`` counts them, by points in closed form.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.panel.memory import Around
from tests.panel.subjects import CLASSES, planted, projected, reach_of, roughly


class WeakInAPart(Around):
    """Weak at points of which :meth:`there` says so."""

    roughness = 3.0

    def forward(self, x: Tensor) -> Tensor:
        weak: Tensor = roughly(self.roughness)(x)
        return torch.where(self.there(x)[:, None], weak, self.strong(x))

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
    own = planted()[1].flatten(1)
    flat = x.detach().flatten(1)
    nearest = torch.cdist(flat, own, p=float("inf")).argmin(1)
    return (flat - own[nearest]).abs() / reach_of(x)


def _largest_half(slope: Tensor) -> Tensor:
    rank = slope.abs().argsort(1, descending=True).argsort(1)
    return rank < slope.shape[1] // 2


def broken(defense: type[WeakInAPart], count: int) -> int:
    """Return of how many of the first images a point is known that it is wrong at."""
    network, images, labels = planted()
    asked, x, y = defense(network), images[:count], labels[:count]
    weights = roughly(asked.roughness).weight
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
