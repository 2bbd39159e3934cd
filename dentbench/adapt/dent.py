"""Dent: defensive entropy minimization, as two functions, adapt and predict."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dentbench.adapt import affine
from dentbench.adapt.losses import LOSSES
from dentbench.adapt.optimizers import OPTIMIZERS, initial_state
from dentbench.errors import ModelError
from dentbench.spec import DentSpec


@dataclass(frozen=True)
class Adaptation:
    """What dent found for one batch: a value, handed to :meth:`Dent.predict`.

    ``affine``: scale and shift of all layers in one tensor, (P,) batch-wise or (B, P)
    instance-wise; None when nothing was adapted. ``losses`` (steps,): the loss before each update.
    """

    affine: Tensor | None
    losses: Tensor


class Dent(nn.Module):
    """A classifier that adapts to every batch by minimizing the entropy of its predictions.

    ``model`` maps images (B, C, H, W) to logits (B, classes); it is copied, and never touched.
    It runs in eval mode always. ``batch_size``: the number of images that the mean of a separable
    loss is over, when an image is to get the same answer in batches of any size; by default, as
    in the released code, the images given. Raises :class:`~dentbench.errors.ModelError` for a
    model without BatchNorm2d. Source: the paper (arXiv 2105.08714) and its released code.
    """

    def __init__(
        self, model: nn.Module, spec: DentSpec | None = None, *, batch_size: int | None = None
    ) -> None:
        super().__init__()
        self.spec = DentSpec() if spec is None else spec
        self.batch_size = batch_size
        try:
            network = copy.deepcopy(model)
        except Exception as error:
            raise ModelError(f"the model cannot be copied ({error}); Dent needs a copy") from error
        self.network = network.requires_grad_(False).eval()
        layers = affine.convert(self.network, self.spec.statistics)
        self.layer_names = tuple(name for name, _ in layers)
        self._sizes = [layer.num_features for _, layer in layers for _ in range(2)]
        self._loss = LOSSES[self.spec.loss]
        self._update = OPTIMIZERS[self.spec.optimizer]
        initial = torch.cat([part.detach() for _, m in layers for part in (m.weight, m.bias)])
        self.register_buffer("_initial", initial, persistent=False)

    def train(self, mode: bool = True) -> Dent:
        """Stay in eval mode: dropout at test time is no part of the defense."""
        del mode
        return super().train(False)

    def adapt(self, x: Tensor) -> Adaptation:
        """Return the adaptation to a batch of images (B, C, H, W) in [0, 1]."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x.detach()
            return self._adapt(x)

    def _adapt(self, x: Tensor) -> Adaptation:
        if self.spec.steps == 0:
            return Adaptation(affine=None, losses=x.new_zeros(0))
        count = len(x) if self.batch_size is None else self.batch_size
        initial: Any = self._initial
        parameters = initial.repeat(len(x), 1) if self.spec.mode == "instance" else initial
        state = initial_state(parameters)
        losses = []
        for _ in range(self.spec.steps):
            parameters = parameters.detach().requires_grad_()
            loss = self._loss(self._forward(x, parameters), count)
            (grad,) = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                change, state = self._update(grad, state, self.spec)
                parameters = parameters + change
            losses.append(loss.detach())
        return Adaptation(affine=parameters.detach(), losses=torch.stack(losses))

    def predict(self, x: Tensor, adaptation: Adaptation) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) under a given adaptation.

        Differentiable in ``x``; an instance-wise adaptation fits only a batch of its own size.
        """
        x = _ContiguousGradient.apply(x)
        if adaptation.affine is None:
            logits: Tensor = self.network(x)
            return logits
        if adaptation.affine.ndim == 2 and len(adaptation.affine) != len(x):
            raise ValueError(f"{len(x)} images, but {len(adaptation.affine)} images' adaptation")
        return self._forward(x, adaptation.affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) after adapting to ``x`` itself (B, C, H, W).

        The adaptation is a constant to autograd: the gradient is the last forward's only, as in
        the released code.
        """
        return self.predict(x, self.adapt(x))

    def affine_parameters(self, adaptation: Adaptation) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each layer's scale and shift, (C,) or (B, C), by layer name."""
        flat: Any = self._initial if adaptation.affine is None else adaptation.affine
        return dict(zip(self.layer_names, self._pairs(flat), strict=True))

    def _pairs(self, flat: Tensor) -> affine.AffinePairs:
        parts = torch.split(flat, self._sizes, dim=-1)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def _forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        with affine.active(self._pairs(parameters)):
            logits: Tensor = self.network(x)
        return logits


class _ContiguousGradient(torch.autograd.Function):
    """Identity whose gradient is contiguous: the attacks call ``grad.view(n, -1)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()
