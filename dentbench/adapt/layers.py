"""Choose the layers of a network that dent adapts, and make them use active pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn

from dentbench.adapt.batchnorm import AdaptiveBatchNorm, AdaptiveNorm, Calls
from dentbench.adapt.group_and_layer_norm import AdaptiveGroupNorm, AdaptiveLayerNorm
from dentbench.errors import ModelError
from dentbench.spec.dent import ALTERNATIVES, DentSpec

KINDS: Final[Mapping[str, type[nn.Module]]] = MappingProxyType(
    {"batchnorm": nn.BatchNorm2d, "groupnorm": nn.GroupNorm, "layernorm": nn.LayerNorm}
)
"""The kinds of layers by the names that a spec has for them."""


def adapted_layers(network: nn.Module, layers: str) -> list[tuple[str, nn.Module]]:
    """Return the layers of a network that have scales to adapt, by name, in order.

    ``layers``: of a spec.
    """
    kinds = tuple(KINDS.values()) if layers == "all" else (KINDS[layers],)
    return [
        (name or type(module).__name__, module)
        for name, module in network.named_modules()
        if isinstance(module, kinds) and getattr(module, "weight", None) is not None
    ]


def convert(network: nn.Module, spec: DentSpec, calls: Calls) -> list[tuple[str, nn.Module]]:
    """Make the layers that a spec names use active pairs; return them by name.

    ``network`` is changed: hand in a copy, with ``calls`` of its own. Layers without affine
    parameters keep none to adapt. Raises :class:`~dentbench.errors.ModelError` when there is no
    layer to adapt, when a layer was converted before, shares its parameters with another, lacks
    the running statistics that a batch share below 1 needs, or would keep its own among layers that
    take the batch's.
    """
    adapted = adapted_layers(network, spec.layers)
    if not adapted:
        raise ModelError(_missing(network, spec.layers))
    if spec.delta != "none":
        _require_own_parameters(adapted)
    if spec.estimates and spec.batch_share:
        _require_scales(network)
    for index, (name, layer) in enumerate(adapted):
        if isinstance(layer.forward, AdaptiveNorm):
            raise ModelError(f"layer {name} is already converted; give Dent the original model")
        # On the instance, so that the layer keeps its type, attributes and hooks.
        layer.__dict__["forward"] = _adaptive(name, layer, index, spec, calls)
    return adapted


def _require_own_parameters(layers: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse parameters that two layers have in common: they would move apart."""
    owners: dict[int, tuple[str, Tensor]] = {}  # kept, so that no two have one address in turn
    for name, layer in layers:
        for own in (layer.weight, layer.bias):
            if not isinstance(own, Tensor) or not own.data_ptr():
                continue
            if own.data_ptr() in owners:
                other, _ = owners[own.data_ptr()]
                who = f"layers {other} and {name} have" if other != name else f"layer {name} has"
                raise ModelError(
                    f"{who} one parameter for two scales or shifts, which dent would move apart; "
                    "give each a parameter of its own (nn.Parameter(layer.weight.clone())), or "
                    f"{ALTERNATIVES}"
                )
            owners[own.data_ptr()] = name, own


def _require_scales(network: nn.Module) -> None:
    """Refuse layers that would go on with running statistics where others take the batch's."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.weight is None:
            raise ModelError(
                f"layer {name} has no scale and shift, so it would keep its running statistics "
                "where others take the batch's; give it affine=True, whose scales of 1 and shifts "
                f"of 0 change nothing, or {ALTERNATIVES}"
            )


def _adaptive(
    name: str, layer: nn.Module, index: int, spec: DentSpec, calls: Calls
) -> AdaptiveNorm:
    if isinstance(layer, nn.GroupNorm):
        return AdaptiveGroupNorm(name, layer, index, calls)
    if isinstance(layer, nn.LayerNorm):
        return AdaptiveLayerNorm(name, layer, index, calls)
    assert isinstance(layer, nn.BatchNorm2d)
    if spec.batch_share < 1 and layer.running_mean is None:
        raise ModelError(
            f"layer {name} keeps no running statistics; use statistics='batch' for this model"
        )
    share, median = spec.batch_share, spec.statistics == "median"
    return AdaptiveBatchNorm(name, layer, index, calls, batch_share=share, median=median)


def _missing(network: nn.Module, layers: str) -> str:
    """Return in words that there is nothing to adapt, and which layers there are instead."""
    names = "BatchNorm2d, GroupNorm or LayerNorm" if layers == "all" else KINDS[layers].__name__
    others = [kind for kind in KINDS if kind != layers and adapted_layers(network, kind)]
    advice = ""
    if others and layers != "all":  # tent and other defenses of dent's layers have no such option
        advice = f"run --defense dent --layers {' or '.join(others)}"
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        advice = "it is a ScriptModule: hand in the module that it was made from"
    kinds = {
        type(module).__name__ for module in network.modules() if isinstance(module, _NOT_ADAPTED)
    }
    has = f" (it has {', '.join(sorted(kinds))})" if kinds else ""
    return (
        f"the network has no {names} layer with scale and shift{has}, and dent adapts nothing else "
        f"here; {advice or 'choose a model with such layers'}, or {ALTERNATIVES}"
    )


_NOT_ADAPTED: Final = (
    *(nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm2d),
    nn.LocalResponseNorm,
)
"""Normalizations that a network may have and that dent does not adapt."""


def affine_of(layers: Sequence[tuple[str, nn.Module]]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the scales and the shifts of layers, each flat; a shift that is missing is zero."""
    scales: list[Tensor] = []
    shifts: list[Tensor] = []
    for _, layer in layers:
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        scales.append(weight.detach().flatten())
        missing = torch.zeros_like(scales[-1])
        shifts.append(bias.detach().flatten() if isinstance(bias, Tensor) else missing)
    return scales, shifts
