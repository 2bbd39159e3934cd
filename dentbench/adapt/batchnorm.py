"""Batch normalization whose scale and shift are handed in from outside, per batch or per image.

The layers of a private copy of the model are taught to read the affine parameters that are
active in the current context; with none active they compute exactly what they always did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dentbench.adapt import prefix_cache
from dentbench.adapt.scale_shift import scaled
from dentbench.errors import ModelError

AffinePairs: TypeAlias = Sequence[tuple[Tensor, Tensor]]
"""Scale and shift of each adapted layer, each (C,) for the batch or (B, C) for the images."""


class _Active(NamedTuple):
    pairs: AffinePairs
    folded: bool


# A context variable, not an attribute: calls that overlap in threads never see each other's.
_active: ContextVar[_Active | None] = ContextVar("active affine parameters", default=None)


@contextmanager
def active(pairs: AffinePairs, *, folded: bool = False) -> Iterator[None]:
    """Let the converted layers use ``pairs`` inside the ``with`` block, in this context only.

    ``folded``: they are (B, C, 1, 1), and the running statistics are in them already.
    """
    token = _active.set(_Active(pairs, folded))
    try:
        yield
    finally:
        _active.reset(token)


def folded(flat: Tensor, running: Tensor, sizes: Sequence[int]) -> AffinePairs:
    """Return the scales and shifts that normalize by the running statistics too, layer by layer.

    ``flat`` (B, P): each image's scales of all layers, then its shifts. ``running`` (2, P / 2): the
    means, and the inverse standard deviations. ``sizes``: the channels of each layer. Each scale
    and shift is (B, C, 1, 1). Differentiable in ``flat`` any number of times.
    """
    parts = _Folded.apply(flat, running, sizes)
    return list(zip(parts[: len(sizes)], parts[len(sizes) :], strict=True))


class _Folded(torch.autograd.Function):
    """All layers at once, back too: small operations cost more than their numbers."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, running: Tensor, sizes: Sequence[int]) -> Any:
        ctx.save_for_backward(running)
        mean, inverse = running
        scale, shift = flat.chunk(2, 1)
        scale = scale * inverse
        shift = torch.addcmul(shift, scale, mean, value=-1)
        parts = (one[..., None, None].split(sizes, 1) for one in (scale, shift))
        return tuple(chain(*parts))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (running,) = ctx.saved_tensors
        mean, inverse = running
        of_scale, of_shift = torch.cat(grads, 1)[..., 0, 0].chunk(2, 1)
        of_scale = torch.addcmul(of_scale, of_shift, mean, value=-1) * inverse
        return torch.cat([of_scale, of_shift], 1), None, None


class AdaptiveForward:
    """The forward of a converted layer; ``index`` is its place in the active pairs.

    ``batch_share`` in [0, 1]: how much of the mean and the variance is the batch's own.
    """

    def __init__(self, name: str, layer: nn.BatchNorm2d, index: int, batch_share: float) -> None:
        self.name = name
        self.layer = layer
        self.index = index
        self.batch_share = batch_share
        self.plain = type(layer).forward is nn.BatchNorm2d.forward

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        prefix_cache.passed()
        if _active.get() is None:
            return type(self.layer).forward(self.layer, x, *args, **kwargs)
        if self.plain:
            return self.normalize(x)
        # A subclass may do more than normalize: let it, and replace only its normalization.
        with _ReplaceBatchNorm(self) as mode:
            output = type(self.layer).forward(self.layer, x, *args, **kwargs)
        if not mode.replaced:
            kind = type(self.layer).__name__
            raise ModelError(
                f"layer {self.name} ({kind}) does not call batch_norm; cannot adapt it"
            )
        return output

    def rectified(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return ReLU(this layer's answer to ``x`` + ``other``), all (B, C, H, W)."""
        current = _active.get()
        fits = other is None or (other.shape == x.shape and other.dtype == x.dtype)
        if self.plain and fits and current is not None and current.folded:
            prefix_cache.passed()
            return scaled(x, *current.pairs[self.index], other, rectified=True)
        y = self(x)
        return torch.relu(y if other is None else y + other)

    def normalize(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, C, H, W) normalized, scaled and shifted by the active pair."""
        current = _active.get()
        assert current is not None
        scale, shift = current.pairs[self.index]
        layer = self.layer
        if current.folded:
            return scaled(x, scale, shift)
        if scale.ndim == 1 and self.batch_share in (0, 1):
            # Not F.batch_norm: that one refuses a single value per channel.
            running = self.batch_share == 0
            mean = layer.running_mean if running else None
            var = layer.running_var if running else None
            cudnn = torch.backends.cudnn.enabled
            return torch.batch_norm(x, scale, shift, mean, var, not running, 0.0, layer.eps, cudnn)
        if self.batch_share == 1:
            # Not F.batch_norm: that one refuses a single value per channel.
            cudnn = torch.backends.cudnn.enabled
            x = torch.batch_norm(x, None, None, None, None, True, 0.0, layer.eps, cudnn)
        else:
            mean, var = self._statistics(x)
            scale = scale * torch.rsqrt(var + layer.eps)
            shift = shift - mean * scale
        scale, shift = (one.expand(len(x), -1)[..., None, None] for one in (scale, shift))
        return scaled(x, scale, shift)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (C,): the running ones, mixed with those of ``x`` if need be.

        The mixture is of the moments (Schneider et al. 2020). The batch's variance is the biased
        one and is differentiated, so that a share of 1 would be the batch statistics exactly.
        """
        mean, var, share = self.layer.running_mean, self.layer.running_var, self.batch_share
        assert mean is not None and var is not None
        if share:
            batch_var, batch_mean = torch.var_mean(x, (0, 2, 3), correction=0)
            mean = share * batch_mean + (1 - share) * mean
            var = share * batch_var + (1 - share) * var
        return mean, var


class _ReplaceBatchNorm(TorchFunctionMode):
    """Inside the block, every call of batch_norm is answered by a layer's adaptive one."""

    def __init__(self, forward: AdaptiveForward) -> None:
        super().__init__()
        self.forward = forward
        self.replaced = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (nn.functional.batch_norm, torch.batch_norm):
            self.replaced = True
            return self.forward.normalize(args[0] if args else (kwargs or {})["input"])
        return func(*args, **(kwargs or {}))


def convert(network: nn.Module, batch_share: float) -> list[tuple[str, nn.BatchNorm2d]]:
    """Teach the BatchNorm2d layers of ``network`` to use active pairs; return them by name.

    ``network`` is changed: hand in a copy. Layers without affine parameters keep none to adapt.
    Raises :class:`~dentbench.errors.ModelError` when there is no layer to adapt, when one was
    converted before, or when one lacks the running statistics that a ``batch_share`` below 1 needs.
    """
    layers = [
        (name or type(module).__name__, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.affine
    ]
    if not layers:
        raise ModelError(
            f"{type(network).__name__} has no BatchNorm2d layer with scale and shift, and dent "
            "adapts nothing else; choose a model with batch normalization"
        )
    for index, (name, layer) in enumerate(layers):
        if isinstance(layer.forward, AdaptiveForward):
            raise ModelError(f"layer {name} is already converted; give Dent the original model")
        if batch_share < 1 and layer.running_mean is None:
            raise ModelError(
                f"layer {name} keeps no running statistics; use statistics='batch' for this model"
            )
        # On the instance, so that the layer keeps its type, attributes and hooks.
        layer.__dict__["forward"] = AdaptiveForward(name, layer, index, batch_share)
    return layers


def running_statistics(layers: Sequence[tuple[str, nn.BatchNorm2d]]) -> Tensor:
    """Return the running means of all channels, and the inverse standard deviations: (2, C)."""
    parts = []
    for _, layer in layers:
        assert layer.running_mean is not None and layer.running_var is not None
        parts.append(torch.stack([layer.running_mean, torch.rsqrt(layer.running_var + layer.eps)]))
    return torch.cat(parts, 1)
