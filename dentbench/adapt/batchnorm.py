"""Batch normalization whose scale and shift are handed in from outside, per batch or per image.

The layers of a private copy of the model are taught to read the affine parameters that are
active in the current context; with none active they compute exactly as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dentbench.adapt import prefix_cache
from dentbench.adapt.scale_shift import scaled
from dentbench.errors import ModelError

AffinePairs: TypeAlias = Sequence[tuple[Tensor, Tensor]]
"""Scale and shift of each adapted layer, each (C,) for the batch or (B, C) for the images."""


@dataclass(frozen=True, eq=False)
class _Active:
    """The active pairs: ``pairs`` is None where the layers use their own scales and shifts."""

    pairs: AffinePairs | None
    folded: bool


# A context variable, not an attribute: calls that overlap in threads never see each other's.
_active: ContextVar[_Active | None] = ContextVar("active affine parameters", default=None)


@dataclass(eq=False)
class Calls:
    """The calls of one converted network that are under way, for threads that the network starts.

    Such a thread lacks its caller's context, so its layers look here.
    """

    running: list[_Active] = field(default_factory=list)

    def only(self) -> _Active | None:
        """Return the active pairs of the call that is under way, None where there are none.

        Raises :class:`~dentbench.errors.ModelError` where there are several.
        """
        running = tuple(self.running)
        if len(running) > 1:
            raise ModelError(
                "the network starts threads of its own, and several calls of it overlap; which "
                "of them a thread belongs to cannot be told, so let dent adapt to one batch at a "
                "time"
            )
        return running[0] if running else None


@contextmanager
def active(pairs: AffinePairs | None, calls: Calls, *, folded: bool = False) -> Iterator[None]:
    """Let the converted layers use ``pairs`` inside the ``with`` block, in this context only.

    ``pairs``: None for those that the layers have. ``calls``: of the network that is called.
    ``folded``: they are (B, C, 1, 1), and the running statistics are in them already.
    """
    current = _Active(pairs, folded)
    token = _active.set(current)
    calls.running.append(current)
    try:
        yield
    finally:
        calls.running.remove(current)
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
        parts = (part[..., None, None].split(sizes, 1) for part in (scale, shift))
        return tuple(chain(*parts))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (running,) = ctx.saved_tensors
        mean, inverse = running
        of_scale, of_shift = torch.cat(grads, 1)[..., 0, 0].chunk(2, 1)
        of_scale = torch.addcmul(of_scale, of_shift, mean, value=-1) * inverse
        return torch.cat([of_scale, of_shift], 1), None, None


class AdaptiveNorm:
    """The forward of a converted layer; ``index`` is its place in the active pairs.

    ``calls``: of the network that the layer is in. A forward of the layer's own, on the instance or
    in its class, is called, and only the normalization inside it is replaced. ``original``: the
    forward that layers of the kind have unless they or a patch define another; ``functions``: the
    functions that are replaced; errors name the last.
    """

    original: ClassVar[Callable[..., Tensor]]
    functions: ClassVar[tuple[Callable[..., Tensor], ...]]

    def __init__(self, name: str, layer: Any, index: int, calls: Calls) -> None:
        self.name = name
        self.layer = layer
        self.index = index
        self.calls = calls
        self.own: Callable[..., Tensor] | None = layer.__dict__.get("forward")
        self.plain = self.own is None and type(layer).forward is type(self).original

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's answer, with the active pair, if any."""
        prefix_cache.passed()
        current = self._current()
        if current is None:
            return self._undisturbed(*args, **kwargs)
        if self.plain:
            return self.normalize(*args, **kwargs)
        # A forward of its own may do more than normalize: run it, and replace its normalization.
        with _ReplaceNorm(self) as mode:
            output = self._undisturbed(*args, **kwargs)
        if not mode.replaced:
            kind = type(self.layer).__name__
            raise ModelError(
                f"layer {self.name} ({kind}) does not call {self.functions[-1].__name__}; cannot "
                "adapt it"
            )
        return output

    def _undisturbed(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's answer without dent."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        output: Tensor = type(self.layer).forward(self.layer, *args, **kwargs)
        return output

    def _current(self) -> _Active | None:
        """Return the active pair, None where the layer is to use its own scale and shift."""
        current = _active.get()
        if current is None:
            current = self.calls.only()
        return None if current is None or current.pairs is None else current

    def _pair(self) -> tuple[Tensor, Tensor]:
        """Return the active scale and shift, flat: (N,), or (B, N) for an image's own."""
        current = self._current()
        assert current is not None and current.pairs is not None
        return current.pairs[self.index]

    def normalize(self, input: Tensor) -> Tensor:
        """Return ``input`` normalized, scaled and shifted by the active pair."""
        raise NotImplementedError


class AdaptiveBatchNorm(AdaptiveNorm):
    """The forward of a BatchNorm2d layer.

    ``batch_share`` in [0, 1]: how much of the mean and the variance is the batch's own. ``median``:
    whether the batch's own are its medians, and the mean squared distances from them.
    """

    original = nn.modules.batchnorm._BatchNorm.forward
    functions = (nn.functional.batch_norm, torch.batch_norm)

    def __init__(
        self,
        name: str,
        layer: nn.BatchNorm2d,
        index: int,
        calls: Calls,
        *,
        batch_share: float,
        median: bool = False,
    ) -> None:
        super().__init__(name, layer, index, calls)
        self.batch_share = batch_share
        self.median = median

    def rectified(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return ReLU(this layer's answer to ``x`` + ``other``), all (B, C, H, W)."""
        current = self._current()
        fits = other is None or (other.shape == x.shape and other.dtype == x.dtype)
        if self.plain and fits and current is not None and current.folded:
            prefix_cache.passed()
            assert current.pairs is not None
            return scaled(x, *current.pairs[self.index], other, rectified=True)
        y = self(x)
        return torch.relu(y if other is None else y + other)

    def normalize(self, input: Tensor) -> Tensor:
        """Return ``input`` (B, C, H, W) normalized, scaled and shifted by the active pair."""
        x, current = input, self._current()  # the name is that of BatchNorm2d's own argument
        assert current is not None and current.pairs is not None
        scale, shift = current.pairs[self.index]
        layer = self.layer
        if current.folded:
            return scaled(x, scale, shift)
        if scale.ndim == 1 and self.batch_share in (0, 1) and not self.median:
            # Not F.batch_norm, which refuses a single value per channel.
            running = self.batch_share == 0
            mean = layer.running_mean if running else None
            var = layer.running_var if running else None
            cudnn = torch.backends.cudnn.enabled
            return torch.batch_norm(x, scale, shift, mean, var, not running, 0.0, layer.eps, cudnn)
        if self.batch_share == 1 and not self.median:
            # Not F.batch_norm, which refuses a single value per channel.
            cudnn = torch.backends.cudnn.enabled
            x = torch.batch_norm(x, None, None, None, None, True, 0.0, layer.eps, cudnn)
        else:
            mean, var = self._statistics(x)
            scale = scale * torch.rsqrt(var + layer.eps)
            shift = shift - mean * scale
        scale, shift = (part.expand(len(x), -1)[..., None, None] for part in (scale, shift))
        return scaled(x, scale, shift)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (C,): running statistics, mixed with those of ``x`` if need be.

        The mixture is of the moments (Schneider et al. 2020). The batch's variance is the biased
        one and is differentiated, so that a share of 1 would be the batch statistics exactly.
        Medians are the lower ones of two, and differentiated too (MedBN, arXiv 2403.19326).
        """
        if self.median:
            medians = x.transpose(0, 1).flatten(1).median(1).values
            return medians, (x - medians[:, None, None]).square().mean((0, 2, 3))
        mean, var, share = self.layer.running_mean, self.layer.running_var, self.batch_share
        assert mean is not None and var is not None
        if share:
            batch_var, batch_mean = torch.var_mean(x, (0, 2, 3), correction=0)
            mean = share * batch_mean + (1 - share) * mean
            var = share * batch_var + (1 - share) * var
        return mean, var


class _ReplaceNorm(TorchFunctionMode):
    """Inside the block, every call of the normalization is answered by the adaptive layer."""

    def __init__(self, forward: AdaptiveNorm) -> None:
        super().__init__()
        self.forward = forward
        self.replaced = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.forward.functions:
            self.replaced = True
            return self.forward.normalize(args[0] if args else (kwargs or {})["input"])
        return func(*args, **(kwargs or {}))


def running_statistics(layers: Sequence[nn.BatchNorm2d]) -> Tensor:
    """Return the running means of all channels, and the inverse standard deviations: (2, C)."""
    parts = []
    for layer in layers:
        assert layer.running_mean is not None and layer.running_var is not None
        parts.append(torch.stack([layer.running_mean, torch.rsqrt(layer.running_var + layer.eps)]))
    return torch.cat(parts, 1)
