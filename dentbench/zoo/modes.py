"""Put a network into eval mode, and refuse one whose layers were meant to stay in another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, Final

from torch import nn

from dentbench.errors import ModelError

_DROPOUT: Final = nn.modules.dropout._DropoutNd
_INSTANCE_NORM: Final = nn.modules.instancenorm._InstanceNorm
_BATCH_NORM: Final = nn.modules.batchnorm._BatchNorm


def evaluated(network: nn.Module) -> nn.Module:
    """Put a network into eval mode, as it is always evaluated, and return it.

    One in training mode as a whole was only forgotten there. Raises
    :class:`~dentbench.errors.ModelError` where a part of it is in eval mode, but for layers in it
    that answer otherwise in training mode: it would be evaluated as another network than it is.
    """
    layers = dict(network.named_modules())
    modes = {name: layer.training for name, layer in layers.items()}
    meant = [(name, layers[name]) for name in modes if _is_exception(name, modes)]
    with contextlib.suppress(NotImplementedError):  # refused where it is evaluated
        network.eval()
    switched = _named((name, layer) for name, layer in meant if not layer.training)
    if switched:
        raise ModelError(
            f"the model is in eval mode but for its layer {switched}, and it is evaluated "
            "in eval mode as a whole: call model.eval() last, or let the layer do in eval mode "
            "what it is to do, such as F.dropout(x, p, training=True)"
        )
    return network


def _is_exception(name: str, modes: Mapping[str, bool]) -> bool:
    """Return whether a layer is in training mode inside of something that is in eval mode."""
    parts = name.split(".") if name else []
    around = (".".join(parts[:depth]) for depth in range(len(parts)))
    return modes[name] and not all(modes.get(outer, True) for outer in around)


def in_training_mode(thing: object) -> str:
    """Name the layers of an object's networks that answer as in training; "" where there is none.

    ``thing``: a network, or an object that has some as attributes.
    """
    held = {"": thing} if isinstance(thing, nn.Module) else dict(getattr(thing, "__dict__", {}))
    return _named(
        (f"{own}.{name}".strip("."), layer)
        for own, network in held.items()
        if isinstance(network, nn.Module)
        for name, layer in network.named_modules()
        if layer.training
    )


def _named(layers: Iterable[tuple[str, nn.Module]]) -> str:
    """Name the first of the layers that have modes, and say how many others there are."""
    names = [f"{name} ({type(layer).__name__})" for name, layer in layers if _has_modes(layer)]
    return " and ".join([*names[:1], *([f"{len(names) - 1} more"] if len(names) > 1 else [])])


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
