"""Planted defenses with answers of chance: their truth is an expectation."""

from __future__ import annotations

import random
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.panel.memory import Around
from tests.panel.subjects import CLASSES, STEP, otherwise_rough, reach_of, smooth


class Noisy(Around):
    """Adds noise to the images: on average nothing is gained."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + 0.05 * torch.randn_like(x))
        return logits


class NoisyByNumPy(Around):
    """Adds noise to its logits that NumPy and Python draw: on average nothing is gained."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        noise = np.random.randn(*logits.shape) + random.gauss(0, 1)
        return logits + 0.05 * torch.from_numpy(noise).to(logits)


class NoiseOffTheGrid(Around):
    """Adds much noise, but to no image on the grid of natural images and of corners of the ball.

    An attacker who leaves the grid makes it guess.
    """

    def forward(self, x: Tensor) -> Tensor:
        off = ((x / STEP) - (x / STEP).round()).abs().flatten(1).amax(1) > 1e-3
        logits: Tensor = self.network(x)
        return logits + 3 * off[:, None] * torch.randn_like(logits)


class RobustOneInTen(Around):
    """Truly more robust: it smooths; but it answers at random one time in ten."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(smooth(x))
        guess = F.one_hot(torch.randint(logits.shape[1], (len(x),)), logits.shape[1])
        drawn = torch.rand(len(x), 1) < 0.1
        span = logits.detach().amax() - logits.detach().amin() + 1
        return torch.where(drawn, span * guess.to(logits), logits)


class NoisyInOneMemory(Noisy):
    """Where no gradient is wanted, every answer of a size is in the same memory as the last."""

    memory: ClassVar[dict[int, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        return _kept(self.memory, super().forward(x))


class RobustOneInTenInOneMemory(RobustOneInTen):
    """The same."""

    memory: ClassVar[dict[int, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        return _kept(self.memory, super().forward(x))


def _kept(memory: dict[int, Tensor], logits: Tensor) -> Tensor:
    if logits.requires_grad:
        return logits
    return memory.setdefault(len(logits), torch.empty_like(logits)).copy_(logits)


class NoisyProjection(Around):
    """Truly more robust, and random by a little noise."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(smooth(x + 0.02 * torch.randn_like(x)))
        return logits


class Smoothing(Around):
    """Randomized smoothing, the mean over 32 noisy copies: it truly averages waves away."""

    draws, sigma = 32, 0.1

    def forward(self, x: Tensor) -> Tensor:
        many = x.repeat(self.draws, 1, 1, 1)
        logits: Tensor = self.network(many + self.sigma * torch.randn_like(many))
        return logits.view(self.draws, len(x), -1).mean(0)


class VotedSmoothing(Smoothing):
    """The votes of 32 noisy copies: the same gain, and no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        many = x.repeat(self.draws, 1, 1, 1)
        logits = self.network(many + self.sigma * torch.randn_like(many))
        votes = F.one_hot(logits.argmax(1), logits.shape[1]).float()
        return votes.view(self.draws, len(x), -1).mean(0)


class RandomNetwork(Around):
    """Draws for a whole batch whether it smooths or not: a gain on average."""

    def forward(self, x: Tensor) -> Tensor:
        smoothed = bool(torch.rand(()) < 0.7)
        logits: Tensor = self.network(smooth(x) if smoothed else x)
        return logits


class HashedNoise(Around):
    """Noise that the image itself seeds: an attacker may search it."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.empty_like(x)
        for row, image in enumerate(x.detach()):
            seed = int(image.double().sum().item() * 1e6)
            generator = torch.Generator().manual_seed(seed)
            noise[row] = torch.randn(image.shape, generator=generator)
        logits: Tensor = self.network(x + 0.05 * noise)
        return logits


class AnotherNowAndThen(Around):
    """Truly more robust at 49 points in 50: the others, which their own bits choose, are weak.

    Who asks about many points beside one that breaks the weak network finds such a point.
    """

    one_in = 50

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(smooth(x))
        weight = torch.arange(1, 1 + x[0].numel(), dtype=torch.double).sqrt()
        off = ((x / STEP) - (x / STEP).round()).abs().flatten(1).amax(1) > 1e-3
        drawn = self.drawn((x.detach().double().flatten(1) * weight).sum(1))
        weak = (drawn * self.one_in < 1) & off
        return torch.where(weak[:, None], otherwise_rough()(x), logits)

    def drawn(self, seeds: Tensor) -> Tensor:
        """Return a number in [0, 1) for each of some seeds (B,), which a rounding error changes."""
        return (1e7 * seeds) % 1


class AnotherOnceInAWhile(AnotherNowAndThen):
    """The same, at one point in 300."""

    one_in = 300


class AnotherInCells(AnotherNowAndThen):
    """The same, of points in cells, which are far wider than rounding errors."""

    cell = 0.04

    def drawn(self, seeds: Tensor) -> Tensor:
        return (43758.5453 * torch.sin(12.9898 * (seeds / self.cell).floor())) % 1


class AnotherInFineCells(AnotherInCells):
    """The same, in cells that a short step leaves."""

    cell = 0.002


class AnotherBesideAMask(AnotherNowAndThen):
    """The same as it was, beside a masked class, next to which no change looks large."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        last = F.one_hot(torch.tensor(CLASSES - 1), CLASSES).bool()
        return torch.where(last & (logits < logits.amax(1, keepdim=True)), -1e6, logits)


class RandomCounterAttack(Around):
    """Starts at a random point far away and steps against its own confidence from there.

    Unattacked, about half of the images are right in any draw, and few are in all of several.
    """

    distance = 8.0

    def forward(self, x: Tensor) -> Tensor:
        noise = 2 * torch.rand_like(x) - 1
        start = (x.detach() + self.distance * reach_of(x) * noise).requires_grad_()
        with torch.enable_grad():
            loss = self.network(start).logsumexp(1).sum()
            (gradient,) = torch.autograd.grad(loss, start)
        moved = x + (start.detach() - x.detach()) - reach_of(x) * gradient.sign()
        logits: Tensor = self.network(moved)
        return logits
