"""The optimizers as pure functions: a gradient and a state in, a change and a state out.

State is a value, nothing is updated in place, and every operation is differentiable with finite
derivatives, at a gradient of exactly zero too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import Tensor

from dentbench.spec.evaluation import DentSpec


@dataclass(frozen=True)
class OptimizerState:
    """The state of an optimizer: the number of updates made and its moving averages."""

    step: int
    averages: tuple[Tensor, ...]


Rates: TypeAlias = Tensor | float
"""Learning rates: one for all parameters, or a tensor that broadcasts to them."""

Update: TypeAlias = Callable[
    [Tensor, OptimizerState, DentSpec, Rates], tuple[Tensor, OptimizerState]
]
"""Maps (gradient, state, settings, learning rates) to (change of the parameters, next state).

The learning rates are handed in beside the settings because each parameter may have its own."""


def initial_state(parameters: Tensor) -> OptimizerState:
    """Return the state before the first update: all moving averages zero."""
    zeros = torch.zeros_like(parameters)
    return OptimizerState(step=0, averages=(zeros, zeros, zeros))


def safe_sqrt(square: Tensor) -> Tensor:
    """Return the square root, with derivative 0 (not infinity) where ``square`` >= 0 is zero.

    For the root of a squared gradient, which is its absolute value, 0 is a subgradient there.
    """
    if not torch.is_grad_enabled():
        return square.sqrt()
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def adamod(
    grad: Tensor, state: OptimizerState, spec: DentSpec, lr: Rates
) -> tuple[Tensor, OptimizerState]:
    """AdaMod as the ``adamod`` 0.0.3 package computes it, which made dent's numbers.

    It bounds the bias-corrected step size by its own moving average and multiplies by the
    uncorrected first moment (unlike arXiv 1910.12249).
    """
    step = state.step + 1
    correction = math.sqrt(1 - spec.beta2**step) / (1 - spec.beta1**step)
    _, mean, square = _moments(grad, state, spec)
    current = lr * correction / (safe_sqrt(square) + spec.optimizer_eps)
    rate = torch.lerp(current, state.averages[2], spec.beta3)
    return -torch.minimum(current, rate) * mean, OptimizerState(step, (mean, square, rate))


def adamod_paper(
    grad: Tensor, state: OptimizerState, spec: DentSpec, lr: Rates
) -> tuple[Tensor, OptimizerState]:
    """AdaMod as its paper (arXiv 1910.12249) has it: both moments corrected, eps not."""
    step, mean, square = _moments(grad, state, spec)
    root = safe_sqrt(square) / math.sqrt(1 - spec.beta2**step)
    current = lr / (root + spec.optimizer_eps)
    rate = torch.lerp(current, state.averages[2], spec.beta3)
    change = -torch.minimum(current, rate) * mean / (1 - spec.beta1**step)
    return change, OptimizerState(step, (mean, square, rate))


def adam(
    grad: Tensor, state: OptimizerState, spec: DentSpec, lr: Rates
) -> tuple[Tensor, OptimizerState]:
    """Adam (arXiv 1412.6980) as ``torch.optim.Adam`` computes it."""
    step, mean, square = _moments(grad, state, spec)
    scale = safe_sqrt(square) / math.sqrt(1 - spec.beta2**step) + spec.optimizer_eps
    change = -lr / (1 - spec.beta1**step) * mean / scale
    return change, OptimizerState(step, (mean, square, state.averages[2]))


def sgd(
    grad: Tensor, state: OptimizerState, spec: DentSpec, lr: Rates
) -> tuple[Tensor, OptimizerState]:
    """Gradient descent with (Nesterov) momentum as ``torch.optim.SGD`` computes it."""
    velocity, *unused = state.averages
    velocity = spec.momentum * velocity + grad
    direction = grad + spec.momentum * velocity if spec.nesterov else velocity
    return -lr * direction, OptimizerState(state.step + 1, (velocity, *unused))


def _moments(grad: Tensor, state: OptimizerState, spec: DentSpec) -> tuple[int, Tensor, Tensor]:
    """Return the number of this update and the moving averages of gradient and square."""
    mean, square, _ = state.averages
    mean = torch.lerp(grad, mean, spec.beta1)
    square = torch.addcmul(spec.beta2 * square, grad, grad, value=1 - spec.beta2)
    return state.step + 1, mean, square


OPTIMIZERS: Final[Mapping[str, Update]] = MappingProxyType(
    {"adamod": adamod, "adamod-paper": adamod_paper, "adam": adam, "sgd": sgd}
)
