"""Seeded training of the embedded models, nominal or adversarial; tensors in, a network out.

On a CPU the same torch, seed and thread count give the same weights, on a GPU the same torch, seed
and kind of GPU; random draws are the same on both. ``dentbench.zoo.training.train`` is the command
that runs it on the data sets, measures the result and writes the model cards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.errors import DataError
from dentbench.zoo.networks import NETWORKS


@dataclass(frozen=True)
class Recipe:
    """All that determines a training run besides its data; written into the model's card.

    The attack: uniform noise of ``noise * eps``, then ``steps`` signed gradient steps of
    ``step * eps``, each clipped to the Linf ball of radius ``eps`` and to [0, 1].
    ``steps = 0`` trains on the images as they are.
    """

    name: str
    network: str
    epochs: int
    batch: int
    lr: float
    weight_decay: float = 5e-4
    eps: float = 0.0
    noise: float = 0.0
    step: float = 0.0
    steps: int = 0
    crop: int = 0
    flip: bool = False
    ema: float = 0.0
    bf16: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """Images as uint8 (N, C, H, W) from 0 to ``white``, with int64 labels (N,)."""

    pixels: Tensor
    labels: Tensor
    white: int

    def images(self, stop: int | None = None) -> Tensor:
        """The first ``stop`` images (all by default) as float32 in [0, 1]."""
        return self.pixels[:stop].float() / self.white

    def part(self, which: slice) -> Split:
        """Some of the images."""
        return Split(self.pixels[which], self.labels[which], self.white)

    def to(self, device: str) -> Split:
        """The same on a device."""
        return Split(self.pixels.to(device), self.labels.to(device), self.white)


def nominal(recipe: Recipe) -> Recipe:
    """The same recipe without an attack, named accordingly."""
    name = recipe.name.replace("-robust", "-nominal")
    return replace(recipe, name=name, eps=0.0, noise=0.0, step=0.0, steps=0)


def augment(pixels: Tensor, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """Random crops after zero padding, and random mirror images, of (B, C, H, W) pixels.

    ``rng`` is the CPU's, wherever the pixels are.
    """
    if not recipe.crop and not recipe.flip:
        return pixels
    count, _, height, width = pixels.shape
    padded = F.pad(pixels, [recipe.crop] * 4)
    offsets = torch.randint(2 * recipe.crop + 1, (2, count, 1), generator=rng)
    rows, columns = torch.arange(height) + offsets[0], torch.arange(width) + offsets[1]
    if recipe.flip:
        mirrored = torch.rand(count, 1, generator=rng) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    image = torch.arange(count, device=pixels.device)[:, None, None]
    rows, columns = rows.to(pixels.device), columns.to(pixels.device)
    # Indices around a slice move the channels last; permuting gives (B, C, H, W) in that layout.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def perturb(
    model: nn.Module, x: Tensor, labels: Tensor, recipe: Recipe, rng: torch.Generator
) -> Tensor:
    """Adversarial images for (B, C, H, W) in [0, 1] under the recipe's attack; same shape."""
    if not recipe.steps:
        return x
    eps = recipe.eps
    delta = torch.empty_like(x, device="cpu").uniform_(-1, 1, generator=rng).to(x.device)
    delta = delta * recipe.noise * eps
    for _ in range(recipe.steps):
        point = (x + delta).clamp(0, 1).requires_grad_()
        loss = F.cross_entropy(model(point).float(), labels)
        (gradient,) = torch.autograd.grad(loss, point)
        delta = (point.detach() - x + recipe.step * eps * gradient.sign()).clamp(-eps, eps)
    return (x + delta).clamp(0, 1)


class Training:
    """A training run whose whole state can be saved and restored between epochs.

    It is done where the data are, on a CPU or a GPU.
    """

    def __init__(self, recipe: Recipe, data: Split) -> None:
        self.recipe, self.data = recipe, data
        self.device = data.pixels.device
        self.batches = len(data.labels) // recipe.batch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = NETWORKS[recipe.network]()
            self.average = NETWORKS[recipe.network]()
        for network in (self.model, self.average):
            network.to(self.device).to(memory_format=torch.channels_last)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), recipe.lr, 0.9, weight_decay=recipe.weight_decay, nesterov=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            recipe.lr,
            total_steps=recipe.epochs * self.batches,
            cycle_momentum=False,
        )
        self.losses: list[float] = []

    def epoch(self) -> float:
        """Train for one epoch; return, and keep, its mean training loss."""
        recipe = self.recipe
        # Seeded by the epoch, so that a resumed run draws as an uninterrupted run.
        rng = torch.Generator().manual_seed(recipe.seed * 100_003 + len(self.losses))
        order = torch.randperm(len(self.data.labels), generator=rng)
        self.model.train()
        total = torch.zeros((), device=self.device)
        order = order[: self.batches * recipe.batch].view(-1, recipe.batch)
        for chosen in order.to(self.device):
            x = augment(self.data.pixels[chosen], recipe, rng).float() / self.data.white
            labels = self.data.labels[chosen]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
                x = perturb(self.model, x, labels, recipe, rng)
                loss = F.cross_entropy(self.model(x).float(), labels)
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.schedule.step()
            self._update_average()
            total += loss.detach()
        self.losses.append(float(total) / self.batches)
        return self.losses[-1]

    def _update_average(self) -> None:
        """Move the averaged weights, and the BatchNorm statistics that belong to them, along."""
        step = self.schedule.last_epoch
        decay = min(self.recipe.ema, step / (step + 9))
        pairs = list(zip(_tensors(self.average), _tensors(self.model), strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point()]
        with torch.no_grad():
            # All at once: on a GPU each operation costs more than its numbers.
            torch._foreach_lerp_(*map(list, zip(*moved, strict=True)), 1 - decay)  # type: ignore[call-overload]
            for value, current in pairs:
                if not value.is_floating_point():
                    value.copy_(current)

    def _parts(self) -> tuple[Any, ...]:
        """The objects that hold the state besides the losses, in the order in which it is saved."""
        return self.model, self.average, self.optimizer, self.schedule

    def save(self, path: Path) -> None:
        """Write the state at ``path`` in one step, so that a kill leaves the older file whole."""
        partial = path.with_suffix(".partial")
        parts = [part.state_dict() for part in self._parts()]
        torch.save({"recipe": asdict(self.recipe), "parts": parts, "losses": self.losses}, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from the state at ``path``, if it is there and of the same recipe."""
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise DataError(f"{path} was written by another recipe: remove it to start afresh")
        for part, saved in zip(self._parts(), state["parts"], strict=True):
            part.load_state_dict(saved)
        self.losses = state["losses"]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


def fit(
    recipe: Recipe,
    data: Split,
    checkpoint: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, list[float]]:
    """Train by the recipe; returns the averaged network in eval mode and the loss of each epoch."""
    training = Training(recipe, data)
    if checkpoint:
        training.restore(checkpoint)
    while len(training.losses) < recipe.epochs:
        loss = training.epoch()
        report(f"{recipe.name}: epoch {len(training.losses)}/{recipe.epochs}, loss {loss:.4f}")
        if checkpoint:
            training.save(checkpoint)
    return training.average.to(memory_format=torch.contiguous_format).eval(), training.losses
