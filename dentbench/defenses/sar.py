"""SAR: sharpness-aware entropy minimization on reliable images alone.

Source: Niu et al., ICLR 2023 (arXiv 2302.12400), and its code (mr-eggplant/SAR): SGD with lr 2.5e-4
and momentum 0.9, rho 0.05, reliable being an entropy below 0.4 ln(classes). Ours: made afresh for
every batch, so that there is nothing to recover from, and in every normalization layer; the
released code leaves out the last layers of the networks that it knows by name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dentbench.adapt.dent import Dent
from dentbench.adapt.optimizers import OptimizerState
from dentbench.defenses.eata import entropies, mean_over, online_spec


class Sar(Dent):
    """Dent's engine with another step: the gradient is taken at the worst point close by.

    ``model`` maps images (B, C, H, W) to logits (B, classes), and has normalization layers of any
    kind; it is copied. ``rho``: how far, in L2, that point is. ``margin``: reliable entropies are
    below so much of ln(classes), at the point itself and at the worst point. The prediction is one
    more forward, after the last update. Raises :class:`~dentbench.errors.ModelError` for a model
    without such layers.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int = 1,
        lr: float = 2.5e-4,
        margin: float = 0.4,
        rho: float = 0.05,
    ) -> None:
        super().__init__(model, online_spec(model, steps, lr), prepare=False)
        self.margin = margin
        self.rho = rho

    def _step(
        self, x: Tensor, parameters: Tensor, state: OptimizerState, differentiable: bool
    ) -> tuple[Tensor, OptimizerState, Tensor]:
        logits = self._forward(x, self.adapted.parts(parameters)[0], None)
        limit = self.margin * math.log(logits.shape[1])
        entropy = entropies(logits)
        reliable = entropy.detach() < limit
        loss = mean_over(entropy, reliable)
        (grad,) = torch.autograd.grad(loss, parameters, create_graph=differentiable)
        with torch.set_grad_enabled(differentiable):
            length = grad.square().sum().clamp_min(1e-30).sqrt()
            worst = parameters + self.rho * grad / (length + 1e-12)
        if not differentiable:
            worst = worst.detach().requires_grad_()
        entropy = entropies(self._forward(x, self.adapted.parts(worst)[0], None))
        still = reliable & (entropy.detach() < limit)
        (grad,) = torch.autograd.grad(mean_over(entropy, still), worst, create_graph=differentiable)
        with torch.set_grad_enabled(differentiable):
            change, state = self._update(grad, state, self.spec, self.adapted.rates(state.step))
            return parameters + change, state, loss
