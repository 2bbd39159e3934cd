"""The optimizers as pure functions: a gradient and a state in, a change and a state out.

State is a value, nothing is updated in place, and every operation is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

import torch
from torch import Tensor

from dentbench.spec import DentSpec


@dataclass(frozen=True)
class OptimizerState:
    """What an optimizer remembers: the number of updates made and its moving averages."""

    step: int
    averages: tuple[Tensor, ...]


Update: TypeAlias = Callable[[Tensor, OptimizerState, DentSpec], tuple[Tensor, OptimizerState]]
"""Maps (gradient, state, settings) to (what to add to the parameters, the next state)."""


def initial_state(parameters: Tensor) -> OptimizerState:
    """Return the state before the first update: all moving averages zero."""
    zeros = torch.zeros_like(parameters)
    return OptimizerState(step=0, averages=(zeros, zeros, zeros))


def adamod(grad: Tensor, state: OptimizerState, spec: DentSpec) -> tuple[Tensor, OptimizerState]:
    """AdaMod as the ``adamod`` 0.0.3 package computes it, which made dent's numbers.

    It bounds the bias-corrected step size by its own moving average and multiplies by the
    uncorrected first moment (unlike arXiv 1910.12249).
    """
    step = state.step + 1
    mean, square, rate = state.averages
    mean = spec.beta1 * mean + (1 - spec.beta1) * grad
    square = spec.beta2 * square + (1 - spec.beta2) * grad * grad
    size = spec.lr * math.sqrt(1 - spec.beta2**step) / (1 - spec.beta1**step)
    current = size / (square.sqrt() + spec.optimizer_eps)
    rate = spec.beta3 * rate + (1 - spec.beta3) * current
    return -torch.minimum(current, rate) * mean, OptimizerState(step, (mean, square, rate))


def adam(grad: Tensor, state: OptimizerState, spec: DentSpec) -> tuple[Tensor, OptimizerState]:
    """Adam (arXiv 1412.6980) as ``torch.optim.Adam`` computes it."""
    step = state.step + 1
    mean, square, unused = state.averages
    mean = spec.beta1 * mean + (1 - spec.beta1) * grad
    square = spec.beta2 * square + (1 - spec.beta2) * grad * grad
    scale = square.sqrt() / math.sqrt(1 - spec.beta2**step) + spec.optimizer_eps
    change = -spec.lr / (1 - spec.beta1**step) * mean / scale
    return change, OptimizerState(step, (mean, square, unused))


def sgd(grad: Tensor, state: OptimizerState, spec: DentSpec) -> tuple[Tensor, OptimizerState]:
    """Gradient descent with (Nesterov) momentum as ``torch.optim.SGD`` computes it."""
    velocity, *unused = state.averages
    velocity = spec.momentum * velocity + grad
    direction = grad + spec.momentum * velocity if spec.nesterov else velocity
    return -spec.lr * direction, OptimizerState(state.step + 1, (velocity, *unused))


OPTIMIZERS: Final[Mapping[str, Update]] = MappingProxyType(
    {"adamod": adamod, "adam": adam, "sgd": sgd}
)
