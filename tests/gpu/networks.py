"""The networks that are timed: of known architectures, if need be with random weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.zoo.models import load_model


class _WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """The WRN-``depth``-``width`` of Zagoruyko and Komodakis 2016, (B, 3, 32, 32) -> (B, 10)."""

    def __init__(self, depth: int = 28, width: int = 10) -> None:
        super().__init__()
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            *(
                _WideBlock(
                    channels[group] if number == 0 else channels[group + 1],
                    channels[group + 1],
                    2 if group and not number else 1,
                )
                for group in range(3)
                for number in range((depth - 4) // 6)
            )
        )
        self.bn = nn.BatchNorm2d(channels[3])
        self.classifier = nn.Linear(channels[3], 10)

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.bn(self.blocks(self.stem(x))))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def _resnet18() -> nn.Module:
    """Return pyautoattack's example, or where that is lacking its architecture."""
    if importlib.util.find_spec("pyautoattack") is not None:
        return load_model("AutoAttackResNet18").network
    from torchvision.models import resnet18

    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return _settled(network)


def _settled(network: nn.Module) -> nn.Module:
    """Return a network of random weights with statistics of noise, so that its logits are sound."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.rand(32, 3, 32, 32))
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-18": _resnet18,
    "ResNet-20": lambda: load_model("cifar10-resnet20-robust").network,
    "WRN-28-10": lambda: _settled(WideResNet()),
    "WRN-10-1": lambda: _settled(WideResNet(10, 1)),  # the dry form's
}


def network(name: str, device: str) -> nn.Module:
    """Return one of :data:`NETWORKS` in eval mode, without gradients to its weights."""
    torch.manual_seed(0)
    return NETWORKS[name]().to(device).eval().requires_grad_(False)


def resnet20() -> nn.Module:
    """Return the embedded network on the GPU."""
    return load_model("cifar10-resnet20-robust").network.cuda().eval().requires_grad_(False)


def gradient(classify: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits, and the images' gradient of a loss of them."""
    x = x.clone().requires_grad_()
    logits = classify(x)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), x)[0]
