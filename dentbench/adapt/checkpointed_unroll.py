"""The exact gradient of an adaptation in the memory of one step: every step is done again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dentbench.adapt.optimizers import OptimizerState

Step: TypeAlias = Callable[
    [Tensor, Tensor, OptimizerState, bool], tuple[Tensor, OptimizerState, Tensor]
]
"""Maps (x, parameters, state) to the next parameters and state, and the loss before.

The last argument says whether it is to be done differentiably in all three."""


def unrolled(
    step: Step, x: Tensor, parameters: Tensor, state: OptimizerState, steps: int, last: int
) -> Tensor:
    """Return the parameters after ``steps`` steps on a batch ``x``, with the exact gradient.

    The gradient with respect to ``x`` goes through the ``last`` steps; earlier steps are
    a constant. Nothing but the parameters and the state before each of these steps is kept; on
    the way back each is done again, with a graph of its own.
    """
    result: Tensor = _Unrolled.apply(x, step, parameters, state, steps, last)
    return result


class _Unrolled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step: Step,
        parameters: Tensor,
        state: OptimizerState,
        steps: int,
        last: int,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.step, ctx.visited = step, []
        for number in range(steps):
            if number >= steps - last:
                ctx.visited.append((parameters, state))
            with torch.enable_grad():
                parameters, state, _ = step(
                    x.detach(), parameters.detach().requires_grad_(), state, False
                )
        return parameters.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        of_x = torch.zeros_like(x)
        of_after = [grad]  # of the parameters and, from the last step but one on, of the averages
        for parameters, state in reversed(ctx.visited):
            leaves = _leaves(x, parameters, state)
            with torch.enable_grad():
                before = OptimizerState(state.step, tuple(leaves[2:]))
                after, moved, _ = ctx.step(leaves[0], leaves[1], before, True)
            products = _product([after, *moved.averages], leaves, of_after)
            of_x += products[0]
            of_after = products[1:]
        return of_x, None, None, None, None, None


def _leaves(x: Tensor, parameters: Tensor, state: OptimizerState) -> list[Tensor]:
    return [part.detach().requires_grad_() for part in (x, parameters, *state.averages)]


def _product(outputs: list[Tensor], leaves: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Return the gradients of the weighted sum of ``outputs``, zero where there are none."""
    pairs = [(o, w) for o, w in zip(outputs, weights, strict=False) if o.requires_grad]
    grads = torch.autograd.grad(
        [output for output, _ in pairs], leaves, [weight for _, weight in pairs], allow_unused=True
    )
    return [
        torch.zeros_like(leaf) if grad is None else grad
        for grad, leaf in zip(grads, leaves, strict=True)
    ]
