"""Check before a run that the evaluated network, also inside dent, is the network handed in.

A network is computed in a faster way, and dent computes it with other scales and shifts. Both are
compared with the network itself: with its own scales and shifts, with moved ones, and in the path
of the gradient. A difference is refused.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Final

from torch import Tensor, nn

from dentbench.adapt.dent import Dent
from dentbench.adapt.layers import adapted_layers
from dentbench.attacks.base import Classifier
from dentbench.errors import ModelError, first_line
from dentbench.evaluation.input_checks.moved_scales import difference_moved
from dentbench.evaluation.input_checks.reference import Reference
from dentbench.spec.evaluation import DentSpec

STILL: Final = 1e-12
"""A learning rate at which nothing moves."""

_ADVICE: Final = (
    "its code asks for something that a copy of it answers otherwise, such as a forward put onto a "
    "layer, torch.is_grad_enabled(), tensors of a layer that is not called, threads or "
    "checkpointing; rewrite that part"
)


def require_same_network(reference: Reference, prepared: nn.Module) -> None:
    """Raise :class:`~dentbench.errors.ModelError` unless the prepared network equals the one given.

    ``reference``: of the network handed in. ``prepared``: as it is computed.
    """
    if prepared is reference.network:
        return
    different = reference.difference(lambda: copy.deepcopy(prepared))
    if different:
        raise ModelError(
            f"the network, computed as a whole, is another than handed in: {different}; {_ADVICE}"
        )


def require_same_in_dent(reference: Reference, prepared: nn.Module, spec: DentSpec) -> None:
    """Raise :class:`~dentbench.errors.ModelError` unless dent computes the network handed in.

    With no step and with steps of no length it must answer as the network does; with other scales
    and shifts, as the network with these in its layers. ``spec``: of dent; layers that it blurs or
    normalizes otherwise are left out. The others are those of :func:`require_same_network`.
    """
    try:
        different = _difference_in_dent(reference, prepared, spec)
    except ModelError:
        raise
    except Exception as error:  # a network may raise anything when dent runs it
        reason = first_line(error)
        different = f"dent cannot run it ({reason})"
    if different:
        raise ModelError(
            f"dent does not compute the network handed in: {different}; {_ADVICE}, or choose a "
            "--defense that adapts nothing"
        )


def _difference_in_dent(reference: Reference, prepared: nn.Module, spec: DentSpec) -> str:
    """Return in words how dent differs from the network, or ""."""
    norms = _batchnorms(reference.network, spec.layers)
    running = all(layer.running_mean is not None for layer in norms)
    own = reference
    if not running:
        own = replace(reference, network=_without_statistics(reference.network, spec.layers))
    steps, statistics = min(max(spec.steps, 1), 2), "running" if running else "batch"
    still = DentSpec(
        mode=spec.mode,
        layers=spec.layers,
        steps=steps,
        lr=STILL,
        statistics=statistics,
        loss=spec.loss,
        optimizer=spec.optimizer,
    )

    def dent(spec: DentSpec) -> Dent:
        size = len(reference.images) if spec.separable else None
        return Dent(prepared, spec, batch_size=size, prepare=False)  # it makes a copy

    if running:  # else its layers have none to begin with
        different = reference.difference(lambda: dent(_resting(spec)))
        if different:
            return f"with no step {different}"
    different = difference_moved(own, dent(still))
    if different:
        return different
    if reference.pure:
        different = own.difference(lambda: _adapted(dent(still), reference.images))
        if different:
            return f"with a learning rate of {STILL:g} {different}"
    return ""


def _resting(spec: DentSpec) -> DentSpec:
    """Return dent with no step and no blur, of the same layers."""
    return DentSpec(mode=spec.mode, layers=spec.layers, steps=0)


def _without_statistics(network: nn.Module, layers: str) -> nn.Module:
    """Return the network with the statistics of the batch in all layers, for want of others."""
    network = copy.deepcopy(network)
    for layer in _batchnorms(network, layers):
        layer.running_mean = layer.running_var = None
    return network


def _batchnorms(network: nn.Module, layers: str) -> list[nn.BatchNorm2d]:
    adapted = (layer for _, layer in adapted_layers(network, layers))
    return [layer for layer in adapted if isinstance(layer, nn.BatchNorm2d)]


def _adapted(dent: Dent, images: Tensor) -> Classifier:
    """Return dent with its adaptation to images made already, so that it draws no numbers later."""
    adaptation = dent.adapt(images)
    return lambda x: dent.predict(x, adaptation)
