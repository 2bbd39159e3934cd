"""A planted defense that harms the network it is compared with: alone, that is as robust."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from tests.panel.memory import Around
from tests.panel.subjects import otherwise_rough, planted, projected


class Baseline(nn.Module):
    """The smoothed network, until somebody harms it."""

    harmed: ClassVar[bool] = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (otherwise_rough() if self.harmed else projected(planted()[0]))(x)
        return logits


class HarmsItsBaseline(Around):
    """The smoothed network too; once it is made the static model is a weak one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        Baseline.harmed = True

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = projected(planted()[0])(x)
        return logits


class HarmsWhileAsked(HarmsItsBaseline):
    """The same, from its first answer on."""

    def __init__(self, network: nn.Module) -> None:
        Around.__init__(self, network)

    def forward(self, x: Tensor) -> Tensor:
        Baseline.harmed = True
        return super().forward(x)
