"""The base of defenses that move the image: the shift is their adaptation, a constant."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dentbench.adapt.checkpointed_unroll import Step, unrolled
from dentbench.adapt.optimizers import OptimizerState
from dentbench.defenses.preprocessing import Preprocessing
from dentbench.defenses.stand_ins import smooth_sign


class Shifting(Preprocessing):
    """A defense that adds something of its own to each image before the network sees it.

    ``steps``: how often the perturbation moves along a gradient, by default by its signs. The
    gradient of an answer goes through the last forward only, as in the released codes; that of
    :meth:`unroll` through the steps too, a smooth stand-in taking the place of each sign.
    """

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__(network)
        self.steps = steps

    def start(self, x: Tensor) -> Tensor:
        """Return the perturbation (B, C, H, W) before the first step."""
        raise NotImplementedError

    def loss(self, logits: Tensor, first: Tensor) -> Tensor:
        """Return the scalar that the steps raise; ``first`` (B,): the labels at the first step."""
        raise NotImplementedError

    def direction(self, gradient: Tensor, *, differentiable: bool) -> Tensor:
        """Return where a step goes (B, C, H, W): the signs of the gradient."""
        return smooth_sign(gradient) if differentiable else gradient.sign()

    def moved(self, x: Tensor, added: Tensor, direction: Tensor) -> Tensor:
        """Return the perturbation after a step, given its direction."""
        raise NotImplementedError

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        """Return the same as a function of ``x`` with a gradient, through the last so many steps.

        Forward it is :meth:`adapt`; backward every sign is smooth, see
        :func:`~dentbench.defenses.stand_ins.smooth_sign`. Takes the memory of one step.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            start, count = self.start(x.detach()), self.steps
            last = count if last is None else min(last, count)
            return unrolled(self._stepper(), x, start, OptimizerState(0, ()), count, last)

    def trajectory(self, x: Tensor) -> list[Tensor]:
        """Return the perturbations before every step and after the last, as by :meth:`adapt`."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x.detach()
            step, visited = self._stepper(), [self.start(x)]
            for _ in range(self.steps):
                leaf = visited[-1].clone().requires_grad_()
                visited.append(step(x, leaf, OptimizerState(0, ()), False)[0].detach())
        return visited

    def _stepper(self) -> Step:
        """Return the step of one adaptation, which begins with the labels of the first."""
        labels: list[Tensor] = []

        def step(
            x: Tensor, added: Tensor, state: OptimizerState, differentiable: bool
        ) -> tuple[Tensor, OptimizerState, Tensor]:
            logits = self.network(x + added)
            if not labels:
                labels.append(logits.detach().argmax(1))
            loss = self.loss(logits, labels[0])
            (grad,) = torch.autograd.grad(loss, added, create_graph=differentiable)
            with torch.set_grad_enabled(differentiable):
                direction = self.direction(grad, differentiable=differentiable)
                return self.moved(x, added, direction), state, loss

        return step
