"""Compare the answers of two ways of computing a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def answers(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of ``images`` (B, C, H, W), and the gradient of a function of them."""
    x = images.clone().requires_grad_()
    logits = network(x.clone())  # it may write into a copy
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), x)
    return logits.detach(), gradient
