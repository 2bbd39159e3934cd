"""The architectures of the embedded models: small BatchNorm2d networks that a CPU attacks quickly.

Every network takes images in [0, 1] of shape (B, C, H, W), normalizes them itself and returns
logits of shape (B, 10). Normalization is part of the module so that a perturbation budget always
speaks of pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CODE_VERSION", "NETWORKS", "DigitsResNet", "Normalize", "ResNet20"]


CODE_VERSION: Final = 1
"""Raised when any network here answers otherwise; outcomes of the former are not used."""


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias, which the BatchNorm2d beside it has."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class Normalize(nn.Module):
    """Map images in [0, 1], (B, C, H, W), to (x - mean) / std with one mean and std per channel.

    Both are buffers, so they travel with the weights and a loader cannot forget them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W) in [0, 1]; the shape stays."""
        return (x - self.mean) / self.std


class _EveryNth(torch.autograd.Function):
    """Every nth row and column; the gradient has the layout of the images.

    That of plain indexing is contiguous, and operations on it with channels_last are slow.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.n = n
        return x[:, :, ::n, ::n]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        whole = torch.zeros_like(x)
        whole[:, :, :: ctx.n, :: ctx.n] = grads[0]
        return whole, None


class _Subsample(nn.Module):
    """Every nth row and column of (B, C, H, W)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _EveryNth.apply(x, self.n)
        return y


def _spatial_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C); unlike that of ``mean``, the gradient fits any layout."""
    return x.sum(dim=(2, 3)) / x[0, 0].numel()


class _PreActBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice, around an identity or a strided 1x1 convolution.

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 4(e).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return residual + shortcut


class DigitsResNet(nn.Module):
    """A pre-activation ResNet for 1x8x8 digits: widths 16, 32, 64, one block each.

    Images (B, 1, 8, 8) in [0, 1] -> logits (B, 10); 77,562 parameters, seven BatchNorm2d layers.
    The design is ours.
    """

    def __init__(self) -> None:
        super().__init__()
        # Mean and standard deviation of the pixels of the 1,297 training images.
        self.normalize = Normalize([0.3053], [0.3760])
        self.stem = _conv3x3(1, 16)
        self.blocks = nn.Sequential(
            _PreActBlock(16, 16, stride=1),
            _PreActBlock(16, 32, stride=2),
            _PreActBlock(32, 64, stride=2),
        )
        self.bn = nn.BatchNorm2d(64)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1, 8, 8) in [0, 1] -> logits (B, 10)."""
        features = F.relu(self.bn(self.blocks(self.stem(self.normalize(x)))))
        logits: Tensor = self.classifier(_spatial_mean(features))
        return logits


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut that has no parameters.

    Where the shape changes the shortcut keeps every second pixel and pads the channels with zeros.
    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", option A.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.subsample = _Subsample(stride) if stride != 1 else None
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        residual: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.subsample is not None:
            x = self.subsample(x)
        if self.padding:
            x = F.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(residual + x)


class ResNet20(nn.Module):
    """The CIFAR ResNet-20: widths 16, 32, 64, three blocks each.

    Images (B, 3, 32, 32) in [0, 1] -> logits (B, 10); 269,722 parameters, 19 BatchNorm2d layers.
    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2, n = 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
        self.stem = _conv3x3(3, 16)
        self.bn = nn.BatchNorm2d(16)
        plan = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2
        plan += [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nn.Sequential(*(_BasicBlock(*shape) for shape in plan))
        self.classifier = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, 32, 32) in [0, 1] -> logits (B, 10)."""
        features = self.blocks(F.relu(self.bn(self.stem(self.normalize(x)))))
        logits: Tensor = self.classifier(_spatial_mean(features))
        return logits


NETWORKS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"DigitsResNet": DigitsResNet, "ResNet-20": ResNet20}
)
"""Architecture name, as model cards write it -> constructor of a freshly initialized network."""
