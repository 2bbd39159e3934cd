"""Group and layer normalization whose scale and shift are handed in from outside.

They do not depend on the batch: they use an image's own mean and variance alone. That dent adapts
them is ours; the released code has BatchNorm alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.adapt.batchnorm import AdaptiveNorm
from dentbench.errors import ModelError


class AdaptiveGroupNorm(AdaptiveNorm):
    """The forward of a GroupNorm layer: (B, C, ...) with a scale and a shift a channel."""

    original = nn.GroupNorm.forward
    functions = (torch.group_norm, F.group_norm)

    def normalize(self, input: Tensor) -> Tensor:
        """Return ``input`` (B, C, ...) normalized, scaled and shifted by the active pair."""
        layer = self.layer
        normal = F.group_norm(input, layer.num_groups, None, None, layer.eps)
        scale, shift = (_spread(tensor, self.name, normal, 1) for tensor in self._pair())
        return normal * scale + shift


class AdaptiveLayerNorm(AdaptiveNorm):
    """The forward of a LayerNorm layer: (B, ...), a pair for each of the last dimensions."""

    original = nn.LayerNorm.forward
    functions = (torch.layer_norm, F.layer_norm)

    def normalize(self, input: Tensor) -> Tensor:
        """Return ``input`` (B, ...) normalized, scaled and shifted by the active pair."""
        layer = self.layer
        shape = layer.normalized_shape
        normal = F.layer_norm(input, shape, None, None, layer.eps)
        pair = (tensor.unflatten(-1, shape) for tensor in self._pair())
        scale, shift = (
            _spread(tensor, self.name, normal, normal.ndim - len(shape), len(shape))
            for tensor in pair
        )
        return normal * scale + shift


def _spread(values: Tensor, name: str, normal: Tensor, at: int, count: int = 1) -> Tensor:
    """Return values of ``count`` dimensions such that they meet those of ``normal`` from ``at`` on.

    One more dimension, the first, is the images'. Raises :class:`~dentbench.errors.ModelError`
    where ``normal`` has other rows than these.
    """
    after = normal.ndim - at - count
    if values.ndim == count:
        return values.reshape(*values.shape, *[1] * after)
    if at < 1 or len(normal) != len(values):
        raise ModelError(
            f"layer {name} normalizes {len(normal)} rows for {len(values)} images, so no scale and "
            "shift can be an image's own; choose --mode batch"
        )
    return values.reshape(len(values), *[1] * (at - 1), *values.shape[1:], *[1] * after)
