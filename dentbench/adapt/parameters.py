"""Lay out dent's parameters in one tensor: the scales, the shifts and a blur's width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dentbench.adapt import batchnorm
from dentbench.adapt.layers import affine_of
from dentbench.spec.evaluation import DentSpec


class AdaptedParameters(nn.Module):
    """The parameters that dent adapts, with their values at the start and their learning rates.

    ``layers``: the converted layers by name. In one tensor the scales of all layers come first,
    then their shifts, if they adapt; sigma comes last, if it does. The tensor is (P,) batch-wise
    and (B, P) instance-wise. ``initial`` (P,): scales and shifts as the layers have them.
    ``sigma``: () that the blur begins with; None without a blur.
    """

    def __init__(self, spec: DentSpec, layers: Sequence[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.spec = spec
        self.layer_names = tuple(name for name, _ in layers)
        scales, shifts = affine_of(layers)
        self._sizes = [len(scale) for scale in scales]
        initial = torch.cat([*scales, *shifts])
        sigma = None if spec.blur == "none" else initial.new_tensor(spec.sigma)
        norms = [layer for _, layer in layers if isinstance(layer, nn.BatchNorm2d)]
        running = None
        if not spec.batch_share and len(norms) == len(layers):
            running = batchnorm.running_statistics(norms)
        self.initial: Tensor
        self.sigma: Tensor | None
        self._rates: Tensor
        self._rates_alone: Tensor
        self._running: Tensor | None
        self.register_buffer("initial", initial, persistent=False)
        self.register_buffer("_running", running, persistent=False)
        self.register_buffer("sigma", sigma, persistent=False)
        rates = self._learning_rates()
        alone = rates.index_fill(0, torch.arange(len(rates) - 1), 0) if spec.alone else rates
        self.register_buffer("_rates", rates, persistent=False)
        self.register_buffer("_rates_alone", alone, persistent=False)

    def _learning_rates(self) -> Tensor:
        spec = self.spec
        rates = [self.initial.new_zeros(0)]
        if spec.delta != "none":
            half = len(self.initial) // 2
            pair = (spec.lr if lr is None else lr for lr in (spec.gamma_lr, spec.beta_lr))
            rates += [self.initial.new_full((half,), lr) for lr in pair]
        if spec.blur == "dynamic":
            rates.append(self.initial.new_tensor([spec.sigma_lr]))
        return torch.cat(rates)

    def rates(self, step: int) -> Tensor:
        """Return the learning rate of every parameter at an update, the first of which is 0."""
        return self._rates_alone if step < self.spec.alone else self._rates

    def start(self, images: int) -> Tensor:
        """Return the parameters before the first update, a row per image where each has its own."""
        parts = [self.initial] if self.spec.delta != "none" else []
        if self.spec.blur == "dynamic":
            assert self.sigma is not None
            parts.append(self.sigma[None])
        start = torch.cat(parts)
        return start.repeat(images, 1) if self.spec.mode == "instance" else start

    def parts(self, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scales and shifts, and sigma, of parameters laid out as by :meth:`start`."""
        flat, sigma = self.initial, self.sigma
        if self.spec.blur == "dynamic":
            parameters, sigma = parameters[..., :-1], parameters[..., -1].abs()
        if self.spec.delta != "none":
            flat = parameters
        return flat, sigma

    def pairs(self, flat: Tensor) -> batchnorm.AffinePairs:
        """Return the scales and the shifts, layer by layer."""
        parts = (half.split(self._sizes, -1) for half in flat.chunk(2, -1))
        return list(zip(*parts, strict=True))

    def folded_pairs(self, flat: Tensor) -> batchnorm.AffinePairs | None:
        """Return them such that they normalize by the running statistics too, each (B, C, 1, 1).

        None where the layers normalize by other statistics, or ``flat`` is not (B, P).
        """
        if self._running is None or flat.ndim == 1:
            return None
        return batchnorm.folded(flat, self._running, self._sizes)
