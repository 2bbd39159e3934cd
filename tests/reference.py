"""Slow, obviously right versions of DentBench's functions, and small networks to try them on."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adamod
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dentbench.defenses.stand_ins import WIDTH
from dentbench.spec.evaluation import DentSpec

GOLDEN = Path(__file__).parent / "golden"


RELEASED = ("released_dent", "released_dent_grid")
"""Outputs of the released code, revision 263b6b1: on 12 images, and on the first 8 of them the
other combinations of loss, statistics and optimizer."""


def golden_tensors() -> dict[str, Tensor]:
    return {k: v for name in RELEASED for k, v in load_file(GOLDEN / f"{name}.safetensors").items()}


def golden_cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    for name in RELEASED:
        cases += json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
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


def slow_blur(image: Tensor, sigma: Tensor, padding: str) -> Tensor:
    """One image (C, H, W) blurred channel by channel with a two-dimensional filter."""
    half = max(1, math.ceil(2 * abs(sigma.item())))
    weights = torch.stack([torch.exp(-(k**2) / (2 * sigma**2)) for k in range(-half, half + 1)])
    weights = weights / weights.sum()
    kernel = weights[:, None] * weights[None, :]
    mode = "constant" if padding == "zeros" else padding
    padded = F.pad(image[None], (half, half, half, half), mode)
    channels = [F.conv2d(padded[:, c : c + 1], kernel[None, None]) for c in range(len(image))]
    return torch.cat(channels, 1)[0]


class _SlowNorm(nn.Module):
    """BatchNorm2d with a scale and shift for every image, or one for all, written out."""

    def __init__(self, layer: nn.BatchNorm2d, copies: int, statistics: str) -> None:
        super().__init__()
        self.layer = layer
        self.statistics = statistics
        self.weights = nn.ParameterList([layer.weight.detach().clone() for _ in range(copies)])
        self.biases = nn.ParameterList([layer.bias.detach().clone() for _ in range(copies)])

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        assert layer.running_mean is not None and layer.running_var is not None
        alpha = {"running": 0.0, "batch": 1.0}.get(self.statistics)
        if alpha is None:
            alpha = float(self.statistics.removeprefix("mix:"))
        mean = alpha * x.mean((0, 2, 3)) + (1 - alpha) * layer.running_mean
        var = alpha * x.var((0, 2, 3), unbiased=False) + (1 - alpha) * layer.running_var
        images = []
        for i, image in enumerate(x):
            own = i % len(self.weights)
            normal = (image - mean[:, None, None]) / torch.sqrt(var + layer.eps)[:, None, None]
            images.append(
                normal * self.weights[own][:, None, None] + self.biases[own][:, None, None]
            )
        return torch.stack(images)


def _swap(module: nn.Module, copies: int, statistics: str) -> Iterator[_SlowNorm]:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            swapped = _SlowNorm(child, copies, statistics)
            setattr(module, name, swapped)
            yield swapped
        else:
            yield from _swap(child, copies, statistics)


def slow_loss(logits: Tensor, loss: str) -> Tensor:
    """The losses, image by image."""
    eps = 1e-5 if loss == "shot" else 0.0
    total = torch.zeros((), dtype=logits.dtype)
    for row in logits:
        p = torch.exp(row) / torch.exp(row).sum()
        total = total - (p * torch.log(p + eps)).sum() / len(logits)
    if loss == "shot":
        q = torch.stack([F.softmax(row, 0) for row in logits]).mean(0)
        total = total + (q * torch.log(q + eps)).sum()
    return total


class PaperAdaMod(torch.optim.Optimizer):
    """Algorithm 1 of arXiv 1910.12249, line by line."""

    def __init__(self, params: Any, lr: float, spec: DentSpec) -> None:
        super().__init__(params, {"lr": lr})
        self.spec = spec

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        spec = self.spec
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                t = state["t"] = state.get("t", 0) + 1
                state["m"] = spec.beta1 * state.get("m", 0) + (1 - spec.beta1) * p.grad
                state["v"] = spec.beta2 * state.get("v", 0) + (1 - spec.beta2) * p.grad**2
                m_hat = state["m"] / (1 - spec.beta1**t)
                v_hat = state["v"] / (1 - spec.beta2**t)
                eta = group["lr"] / (torch.sqrt(v_hat) + spec.optimizer_eps)
                state["s"] = spec.beta3 * state.get("s", 0) + (1 - spec.beta3) * eta
                p -= torch.minimum(eta, state["s"]) * m_hat


def _optimizer(groups: list[dict[str, Any]], spec: DentSpec) -> torch.optim.Optimizer:
    betas = (spec.beta1, spec.beta2)
    if spec.optimizer == "adam":
        return torch.optim.Adam(groups, spec.lr, betas=betas, eps=spec.optimizer_eps)
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, spec.lr, momentum=spec.momentum, nesterov=spec.nesterov)
    if spec.optimizer == "adamod-paper":
        return PaperAdaMod(groups, spec.lr, spec)
    return adamod.AdaMod(groups, spec.lr, betas=betas, beta3=spec.beta3, eps=spec.optimizer_eps)


def slow_dent(model: nn.Module, spec: DentSpec, x: Tensor) -> Tensor:
    """Dent with ordinary parameters and the real optimizers; returns the logits."""
    network = copy.deepcopy(model).eval().requires_grad_(False)
    copies = len(x) if spec.mode == "instance" else 1
    # Without updates the layers stay the model's.
    layers = list(_swap(network, copies, spec.statistics)) if spec.steps else []
    sigmas = [nn.Parameter(x.new_tensor(spec.sigma or 0.0)) for _ in range(copies)]

    def forward() -> Tensor:
        if spec.blur == "none":
            return network(x)  # type: ignore[no-any-return]
        blurred = [
            slow_blur(image, sigmas[i % copies], str(spec.padding)) for i, image in enumerate(x)
        ]
        return network(torch.stack(blurred))  # type: ignore[no-any-return]

    groups: list[dict[str, Any]] = []
    if spec.delta != "none":
        gamma_lr, beta_lr = (spec.lr if r is None else r for r in (spec.gamma_lr, spec.beta_lr))
        groups.append({"params": [p for la in layers for p in la.weights], "lr": gamma_lr})
        groups.append({"params": [p for la in layers for p in la.biases], "lr": beta_lr})
    if spec.blur == "dynamic":
        groups.append({"params": sigmas, "lr": spec.sigma_lr})
    optimizer = _optimizer(groups, spec) if spec.steps else None
    rates = [group["lr"] for group in groups]
    for number in range(spec.steps):
        assert optimizer is not None
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            waits = number < spec.alone and group is not optimizer.param_groups[-1]
            group["lr"] = 0.0 if waits else rate
        optimizer.zero_grad()
        slow_loss(forward(), spec.loss).backward()
        optimizer.step()
    with torch.no_grad():
        return forward()


def soft_sign(values: Tensor) -> Tensor:
    """The sign, and the gradient of tanh in mean absolute values: written out."""
    size = values.detach().abs().flatten(1).mean(1)[:, None, None, None]
    curve = torch.tanh(values / (WIDTH * size))
    return curve - curve.detach() + torch.sign(values)
