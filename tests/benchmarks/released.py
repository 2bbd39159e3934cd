"""The released algorithm in plain PyTorch, as its code computes it: what speed is measured against.

Written for this comparison after the description in the paper and the behavior of the released
code (revision 263b6b1): modules hold the affine parameters, the loss is scripted, ``backward``
fills ``grad`` fields, AdaMod of the ``adamod`` package steps through a list of parameters, and when
the images require a gradient every step computes one for them too.
"""

from __future__ import annotations

import copy
import warnings

import torch
from adamod import AdaMod
from torch import Tensor, nn


def shot(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions minus the entropy of their mean."""
    p = logits.softmax(1)
    mean = p.mean(0)
    return -(p * torch.log(p + 1e-5)).sum(1).mean() + (mean * torch.log(mean + 1e-5)).sum()


class PerImageBatchNorm(nn.Module):
    """BatchNorm2d with frozen statistics, and a scale and a shift (B, C) for every image."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(layer.weight.detach()[None])
        self.shift = nn.Parameter(layer.bias.detach()[None])

    def start(self, images: int) -> None:
        self.scale = nn.Parameter(self.layer.weight.detach().repeat(images, 1))
        self.shift = nn.Parameter(self.layer.bias.detach().repeat(images, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.layer.running_mean, self.layer.running_var
        assert mean is not None and var is not None
        scale = self.scale * torch.rsqrt(var + self.layer.eps)
        shift = self.shift - mean * scale
        return x * scale[:, :, None, None] + shift[:, :, None, None]


class ReleasedDent(nn.Module):
    """Instance-wise dent with the released configuration: shot, AdaMod, lr 6e-3."""

    def __init__(self, model: nn.Module, steps: int = 6, lr: float = 6e-3) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.steps, self.lr = steps, lr
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch advises against scripting by now
            self.loss = torch.jit.script(shot)
        self.layers = []
        for module in [*self.model.modules()]:
            for name, child in module.named_children():
                if type(child) is nn.BatchNorm2d:
                    layer = PerImageBatchNorm(child)
                    setattr(module, name, layer)
                    self.layers.append(layer)

    @torch.enable_grad()
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            layer.start(len(x))
        parameters = [item for layer in self.layers for item in (layer.scale, layer.shift)]
        optimizer = AdaMod(parameters, lr=self.lr, betas=(0.99, 0.999), beta3=0.6)
        for _ in range(self.steps):
            self.adapt(x, optimizer)
        logits: Tensor = self.model(x)
        return logits

    def adapt(self, x: Tensor, optimizer: AdaMod) -> None:
        """Make one update; the graph, although retained, is gone when this returns."""
        loss = self.loss(self.model(x))
        optimizer.zero_grad()
        loss.backward(retain_graph=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
