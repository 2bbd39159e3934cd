"""Put a network into eval mode, and refuse one that it was meant to be in another mode in part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, Final

from torch import nn

from dentbench.errors import ModelError

_DROPOUT: Final = nn.modules.dropout._DropoutNd
_INSTANCE_NORM: Final = nn.modules.instancenorm._InstanceNorm
_BATCH_NORM: Final = nn.modules.batchnorm._BatchNorm


def evaluated(network: nn.Module) -> nn.Module:
    """Put a network into eval mode, as it is always evaluated, and return it.

    One that is in training mode as a whole was forgotten to be. Raises
    :class:`~dentbench.errors.ModelError` for one in eval mode with layers in training mode that
    answer otherwise there: it would be evaluated as another network than it is.
    """
    meant = not network.training
    training = [(name, layer) for name, layer in network.named_modules() if layer.training]
    with contextlib.suppress(NotImplementedError):  # refused where it is evaluated
        network.eval()
    switched = [
        f"{name} ({type(layer).__name__})"
        for name, layer in training
        if not layer.training and _has_modes(layer)
    ]
    if meant and switched:
        more = f" and {len(switched) - 1} more" if len(switched) > 1 else ""
        raise ModelError(
            f"the model is in eval mode but for its layer {switched[0]}{more}, and it is evaluated "
            "in eval mode as a whole: call model.eval() last, or let the layer do in eval mode "
            "what it is to do, such as F.dropout(x, p, training=True)"
        )
    return network


def _has_modes(layer: nn.Module) -> bool:
    """Return whether a layer answers otherwise in training mode, as far as its code says."""
    if isinstance(layer, _DROPOUT):
        return layer.p > 0
    if isinstance(layer, _INSTANCE_NORM):
        return layer.track_running_stats
    if isinstance(layer, _BATCH_NORM):
        return layer.running_mean is not None
    if type(layer).__module__.startswith("torch."):
        return bool(getattr(layer, "dropout", 0)) and not isinstance(layer.dropout, nn.Module)
    own = type(layer).__mro__
    functions = (held for kind in own[: own.index(nn.Module)] for held in vars(kind).values())
    return any(_asks(held.__code__) for held in functions if isinstance(held, FunctionType))


def _asks(code: CodeType) -> bool:
    inner: Iterator[Any] = (held for held in code.co_consts if isinstance(held, CodeType))
    return "training" in code.co_names or any(map(_asks, inner))
