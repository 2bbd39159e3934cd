"""Tent: entropy minimization over the scales and shifts, with the statistics of the test batch.

Source: Wang et al., ICLR 2021 (arXiv 2006.10726), and its code (DequanWang/tent): Adam with lr
1e-3, betas 0.9 and 0.999, one update per batch.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from dentbench.adapt.adaptation import Adaptation
from dentbench.adapt.dent import Dent, Memory
from dentbench.spec.evaluation import DentSpec


def tent_spec(steps: int = 1, lr: float = 1e-3) -> DentSpec:
    """Return tent as a setting of dent's engine."""
    return DentSpec(
        mode="batch",
        steps=steps,
        loss="entropy",
        statistics="batch",
        optimizer="adam",
        lr=lr,
        beta1=0.9,
        beta2=0.999,
    )


def tent(model: nn.Module, *, steps: int = 1, lr: float = 1e-3) -> Dent:
    """Return episodic tent: scales, shifts and optimizer are made afresh for every batch.

    Ours: the prediction is another forward, after the last update, as in dent. The released code
    answers before the update, which with one episodic step is the same as ``norm``.
    """
    return Dent(model, tent_spec(steps, lr), prepare=False)


class OnlineTent:
    """Tent whose scales, shifts and optimizer go on from batch to batch, as a value.

    As in the released code with its one update, a batch is answered before the update that it
    causes: the answer depends on the batches before and on the batch's own statistics, and the
    adaptation is the state that the batches before left. Calling it never moves it; ``after`` does.
    """

    def __init__(self, dent: Dent, memory: Memory | None = None) -> None:
        self.dent = dent
        self.memory = memory

    def after(self, x: Tensor) -> OnlineTent:
        """Return the defense as it is after a batch of images (B, C, H, W) in [0, 1]."""
        return OnlineTent(self.dent, self.dent.carry(x, self.memory))

    def unroll_after(self, x: Tensor) -> OnlineTent:
        """Return the same as :meth:`after`, as a differentiable function of ``x``."""
        return OnlineTent(self.dent, self.dent.carry(x, self.memory, differentiable=True))

    def adapt(self, x: Tensor) -> Adaptation:
        """Return the scales and shifts that the batches before left."""
        del x
        start = self.dent.start()
        return start if self.memory is None else replace(start, affine=self.memory[0])

    def unroll(self, x: Tensor, last: int | None = None) -> Adaptation:
        """Return the same: it does not depend on the images, so the gradient is exact."""
        del last
        return self.adapt(x)

    def predict(self, x: Tensor, adaptation: Adaptation) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) under their own statistics."""
        return self.dent.predict(x, adaptation)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes)."""
        return self.predict(x, self.adapt(x))


def tent_online(model: nn.Module, *, lr: float = 1e-3) -> OnlineTent:
    """Return online tent, before the first batch."""
    return OnlineTent(Dent(model, tent_spec(1, lr), prepare=False))
