"""Embedded denoisers, small score models of diffusion, and how they are trained.

The process is the variance-preserving process of Ho et al. 2020 (arXiv 2006.11239) in continuous
time (Song et al. 2021, arXiv 2011.13456): beta rises from 0.1 to 20 over times 0 to 1. The
denoisers know its beginning alone, times up to :data:`LATEST`: purification goes no further.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.errors import ModelError
from dentbench.zoo.cards.model_cards import ASSETS
from dentbench.zoo.training.seeded_training import Split

LATEST: Final = 0.25
_BETAS: Final = (0.1, 20.0)


def signal(time: Tensor) -> Tensor:
    """Return the share of the signal's variance that is left at times in [0, 1], elementwise."""
    low, high = _BETAS
    exponent: Tensor = low * time + (high - low) * time.square() / 2
    return torch.exp(-exponent)


class Denoiser(nn.Module):
    """Predicts the noise in images (B, C, H, W) that were diffused up to times (B,).

    Images are in [-1, 1] before they are diffused. ``fold``: pixels of squares of that side become
    channels first, for speed. The design is ours: residual blocks of two 3x3 convolutions, group
    normalization, SiLU, and a scale and shift by the time.
    """

    def __init__(self, channels: int, width: int, blocks: int, fold: int) -> None:
        super().__init__()
        inner = channels * fold**2
        self.fold = fold
        self.time = nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Conv2d(inner, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.leave = nn.Conv2d(width, inner, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the predicted noise (B, C, H, W) for diffused images and their times (B,)."""
        angles = time[:, None] * 4 * math.pi * torch.arange(1, 5, dtype=x.dtype, device=x.device)
        when = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        y = self.enter(F.pixel_unshuffle(x, self.fold))
        for block in self.blocks:
            y = block(y, when)
        noise: Tensor = F.pixel_shuffle(self.leave(y), self.fold)
        return noise


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, when: Tensor) -> Tensor:
        """(B, width, H, W) and (B, width) -> (B, width, H, W)."""
        y = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(F.silu(when))[:, :, None, None].chunk(2, 1)
        y = self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))
        z: Tensor = x + y
        return z


@dataclass(frozen=True)
class DenoiserRecipe:
    """All that determines a denoiser besides its images; ``shape`` (C, H, W) is theirs."""

    name: str
    shape: tuple[int, int, int]
    width: int
    blocks: int
    fold: int
    steps: int
    batch: int
    lr: float = 2e-3
    ema: float = 0.995
    flip: bool = False
    seed: int = 0

    def network(self) -> Denoiser:
        """Return a freshly initialized network."""
        return Denoiser(self.shape[0], self.width, self.blocks, self.fold)


DENOISERS: Final[Mapping[tuple[int, ...], DenoiserRecipe]] = MappingProxyType(
    {
        recipe.shape: recipe
        for recipe in (
            DenoiserRecipe("denoiser-digits", (1, 8, 8), 32, 3, 1, steps=1200, batch=64),
            DenoiserRecipe(
                "denoiser-cifar10", (3, 32, 32), 48, 3, 2, steps=900, batch=32, flip=True
            ),
        )
    }
)
"""The embedded denoisers, by the shape of their images."""


def load_denoiser(shape: tuple[int, ...], folder: Path = ASSETS) -> Denoiser:
    """Return the denoiser for images of a shape (C, H, W), in eval mode, on the CPU.

    It is loaded when it is first needed, and takes no random numbers of those who ask.
    Raises :class:`~dentbench.errors.ModelError` where there is none.
    """
    from safetensors.torch import load_file

    if shape not in DENOISERS:
        shapes = " and ".join("x".join(map(str, shape)) for shape in DENOISERS)
        raise ModelError(
            f"there are denoisers for images of {shapes} alone, and these are "
            f"{'x'.join(map(str, shape))}; choose another defense"
        )
    recipe = DENOISERS[shape]
    with torch.random.fork_rng(devices=[]):  # its first question is no other than its second
        network = recipe.network()
    state = load_file(folder / f"{recipe.name}.safetensors")
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network.requires_grad_(False).eval()


def fit_denoiser(
    recipe: DenoiserRecipe, data: Split, report: Callable[[str], None] = lambda line: None
) -> tuple[Denoiser, list[float]]:
    """Train by the recipe; return the averaged network in eval mode and the loss of each step.

    The loss is the mean squared error of the noise, at times drawn uniformly up to
    :data:`LATEST`; Adam, its learning rate falling to zero as a cosine.
    """
    rng = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = recipe.network()
    average = deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), recipe.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    losses = []
    for step in range(recipe.steps):
        chosen = torch.randint(len(data.pixels), (recipe.batch,), generator=rng)
        x = 2 * data.pixels[chosen].float() / data.white - 1
        if recipe.flip:
            mirrored = torch.rand(recipe.batch, 1, 1, 1, generator=rng) < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        time = LATEST * torch.rand(recipe.batch, generator=rng)
        noise = torch.randn(x.shape, generator=rng)
        left = signal(time)[:, None, None, None]
        loss = F.mse_loss(network(left.sqrt() * x + (1 - left).sqrt() * noise, time), noise)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            decay = min(recipe.ema, (1 + step) / (10 + step))
            for held, current in zip(average.parameters(), network.parameters(), strict=True):
                held.lerp_(current, 1 - decay)
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            mean = sum(losses[-100:]) / 100
            report(f"{recipe.name}: step {step + 1}/{recipe.steps}, loss {mean:.4f}")
    return average.requires_grad_(False).eval(), losses
