"""Planted defenses that tell judge from attacker, and mislead the attacker alone.

Each answers the judge with the static model's labels; that is its truth.
"""

from __future__ import annotations

import traceback

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.panel.masking import other_network, with_gradient_of
from tests.panel.memory import Around
from tests.panel.subjects import otherwise_rough, planted, projected


class Telling(Around):
    """Answers the judge with the network, and an attacker with a flat lie."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return self.lie(x, logits) if self.attacked(x, logits) else logits

    def attacked(self, x: Tensor, logits: Tensor) -> bool:
        raise NotImplementedError

    def lie(self, x: Tensor, logits: Tensor) -> Tensor:
        """A sure label, with another network's gradient."""
        sure = 10.0 * F.one_hot(logits.argmax(1), logits.shape[1])
        return with_gradient_of(sure, other_network(x, logits.shape[1]))


class ByRequiresGrad(Telling):
    """Lies where the images want a gradient."""

    def attacked(self, x: Tensor, logits: Tensor) -> bool:
        return x.requires_grad


class ByGradMode(Telling):
    """Lies where gradients are on."""

    def attacked(self, x: Tensor, logits: Tensor) -> bool:
        return torch.is_grad_enabled()


class ByBatchSize(Telling):
    """Lies to every batch smaller than the largest that it has seen: survivors are asked alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.largest = 0

    def attacked(self, x: Tensor, logits: Tensor) -> bool:
        self.largest = max(self.largest, len(x))
        return len(x) < self.largest


class ByCallNumber(Telling):
    """Lies at every second call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.calls = 0

    def attacked(self, x: Tensor, logits: Tensor) -> bool:
        self.calls += 1
        return self.calls % 2 == 0


class AfterFewCalls(ByCallNumber):
    """Honest in its first 60 calls, as many as checks make; then it lies."""

    def attacked(self, x: Tensor, logits: Tensor) -> bool:
        self.calls += 1
        return self.calls > 60


class ByPrecision(Telling):
    """Lies where the network's answers are those of bfloat16, as attacks may compute them."""

    def attacked(self, x: Tensor, logits: Tensor) -> bool:
        return bool((logits == logits.bfloat16().float()).all())


class ByCaller(Telling):
    """Reads the call stack: lies to everybody but a function with "judge" in its name."""

    def attacked(self, x: Tensor, logits: Tensor) -> bool:
        return not any("judge" in frame.f_code.co_name for frame, _ in traceback.walk_stack(None))


class DecoyToAttacks(Around):
    """Another network, as weak; an attack, by the call stack, is shown a robust one, honestly."""

    def forward(self, x: Tensor) -> Tensor:
        network = projected(planted()[0]) if self.attacked(x) else otherwise_rough()
        logits: Tensor = network(x)
        return logits

    def attacked(self, x: Tensor) -> bool:
        frames = {frame.f_code.co_filename for frame, _ in traceback.walk_stack(None)}
        asks = ("judg", "probes", "/checks/", "input_checks", "build.py")
        return not any(word in file for file in frames for word in asks)


class DecoyToGradients(DecoyToAttacks):
    """The same, to questions of an attack that want a gradient alone: the labels are honest."""

    def attacked(self, x: Tensor) -> bool:
        return x.requires_grad and super().attacked(x)


class MisleadingAttacks(DecoyToAttacks):
    """Another network, as weak; an attack is handed a gradient of no use, and true logits."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = otherwise_rough()(x)
        if not self.attacked(x):
            return logits
        return with_gradient_of(logits, other_network(x, logits.shape[1]))


class ByLabelOrder(Around):
    """Knows in which order the labels come, and answers by position where most of them fit."""

    share = 0.3

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        classes = logits.shape[1]
        order = torch.arange(len(x), device=x.device) % classes
        if len(x) < 8 or float((logits.argmax(1) == order).float().mean()) < self.share:
            return logits
        span = logits.detach().amax() - logits.detach().amin() + 1
        return logits + 3 * span * F.one_hot(order, classes)


class ByLabelOrderDeclared(ByLabelOrder):
    """The same, declared to depend on its batch mates."""

    separable = False
