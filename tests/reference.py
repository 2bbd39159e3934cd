"""Slow, obviously right versions of what DentBench computes, and small networks to try them on."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adamod
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dentbench.spec import DentSpec

GOLDEN = Path(__file__).parent / "golden"


def golden_tensors() -> dict[str, Tensor]:
    return load_file(GOLDEN / "released_dent.safetensors")


def golden_cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((GOLDEN / "released_dent.json").read_text())["cases"]
    return cases


def golden_network() -> nn.Module:
    """The small float64 network that the released code was run on."""
    widths = json.loads((GOLDEN / "released_dent.json").read_text())["widths"]
    layers: list[nn.Module] = []
    for stride, before, width in zip((1, 2, 2), (3, *widths), widths, strict=False):
        layers += [
            nn.Conv2d(before, width, 3, padding=1, stride=stride, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))
    network = nn.Sequential(*layers, *head).double()
    state = {k.removeprefix("state."): v for k, v in golden_tensors().items() if "state." in k}
    network.load_state_dict(state)
    return network.eval()


def tiny_network(classes: int = 10, channels: int = 3, seed: int = 0) -> nn.Module:
    """A float32 network with two BatchNorm layers whose statistics are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1, stride=2),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, classes),
        )
        network.train()
        for _ in range(20):
            network(torch.rand(32, channels, 8, 8))
        network[-1].weight.data *= 8  # type: ignore[operator,union-attr]
    return network.eval()


class _InstanceNorm(nn.Module):
    """BatchNorm2d with one scale and shift per image, written out."""

    def __init__(self, layer: nn.BatchNorm2d, images: int, statistics: str) -> None:
        super().__init__()
        self.layer = layer
        self.use_batch = statistics == "batch"
        rows = (images, 1) if images else (1,)
        self.weight = nn.Parameter(layer.weight.detach().repeat(*rows))
        self.bias = nn.Parameter(layer.bias.detach().repeat(*rows))

    def forward(self, x: Tensor) -> Tensor:
        if self.use_batch:
            mean = x.mean((0, 2, 3))
            var = x.var((0, 2, 3), unbiased=False)
        else:
            assert self.layer.running_mean is not None and self.layer.running_var is not None
            mean, var = self.layer.running_mean, self.layer.running_var
        normal = (x - mean[:, None, None]) / torch.sqrt(var + self.layer.eps)[:, None, None]
        return normal * self.weight[..., None, None] + self.bias[..., None, None]


def _swap(module: nn.Module, images: int, statistics: str) -> Iterator[_InstanceNorm]:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            swapped = _InstanceNorm(child, images, statistics)
            setattr(module, name, swapped)
            yield swapped
        else:
            yield from _swap(child, images, statistics)


def slow_loss(logits: Tensor, loss: str) -> Tensor:
    """The losses, image by image and class by class."""
    eps = 1e-5 if loss == "shot" else 0.0
    total = torch.zeros((), dtype=logits.dtype)
    for row in logits:
        probabilities = torch.exp(row) / torch.exp(row).sum()
        for p in probabilities:
            total = total - p * torch.log(p + eps)
    total = total / len(logits)
    if loss == "shot":
        for q in F.softmax(logits, 1).mean(0):
            total = total + q * torch.log(q + eps)
    return total


def _optimizer(parameters: list[nn.Parameter], spec: DentSpec) -> torch.optim.Optimizer:
    if spec.optimizer == "adam":
        betas = (spec.beta1, spec.beta2)
        return torch.optim.Adam(parameters, spec.lr, betas=betas, eps=spec.optimizer_eps)
    if spec.optimizer == "sgd":
        return torch.optim.SGD(parameters, spec.lr, momentum=spec.momentum, nesterov=spec.nesterov)
    betas = (spec.beta1, spec.beta2)
    return adamod.AdaMod(parameters, spec.lr, betas=betas, beta3=spec.beta3)


def slow_dent(model: nn.Module, spec: DentSpec, x: Tensor) -> Tensor:
    """Dent with ordinary parameters and the real optimizers; returns the logits."""
    network = copy.deepcopy(model).eval().requires_grad_(False)
    layers = list(_swap(network, len(x) if spec.mode == "instance" else 0, spec.statistics))
    optimizer = _optimizer([p for layer in layers for p in layer.parameters()], spec)
    for _ in range(spec.steps):
        optimizer.zero_grad()
        slow_loss(network(x), spec.loss).backward()
        optimizer.step()
    with torch.no_grad():
        logits: Tensor = network(x)
    return logits
