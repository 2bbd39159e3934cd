"""Compute normalizations together with the operations after them: a sum, and a ReLU.

Work between convolutions costs time by its reading and writing of memory, so the fewer operations
the better: on two CPU cores, by PyTorch's operations, dent's attack gradient took 0.96 of its time
on the embedded ResNet-20, 0.98 on a ResNet-18, and as long as before on the digits. A network is
traced (torch.fx) to learn which operation follows which; its layers stay its own, under their
names.
"""

from __future__ import annotations

import copy
import logging
import operator
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from dentbench.compute.answers import answers

_log = logging.getLogger(__name__)

_RELUS: Final = (F.relu, torch.relu, torch.relu_)
_SUMS: Final = (operator.add, operator.iadd, torch.add)


def rectified(norm: nn.Module, x: Tensor, other: Tensor | None = None) -> Tensor:
    """Return ReLU(``norm(x)`` + ``other``), by the layer's own way of doing that, if any.

    ``x`` and ``other`` (B, C, H, W). The layer's way is an attribute ``rectified`` of its forward;
    a layer with hooks is called, such that they are.
    """
    at_once = getattr(norm.forward, "rectified", None)
    if at_once is not None and not has_hooks(norm):
        y: Tensor = at_once(x, other)
        return y
    y = norm(x)
    return F.relu(y if other is None else y + other)


def joined_if_same(network: nn.Module, images: Tensor) -> nn.Module:
    """Return the network with its steps joined, if its logits and gradients keep every bit.

    ``images`` (B, C, H, W): some to try it on. It is a network of its own with the same layers;
    where it cannot be traced, has nothing to be joined, draws random numbers, changes something of
    itself (a count of its calls), or answers otherwise then, it is itself. Only a copy is called.
    Side effects of the code around its normalizations, as in a file, happen no more.
    """
    if not any(_normalizations(network)):
        return network
    try:
        with torch.random.fork_rng():
            trial = copy.deepcopy(network)
            graph, steps = _traced(trial)
            if not steps:
                return network
            traced = type(fx.GraphModule(trial, graph)).forward
            if not _is_same(_joined(trial, traced, steps), trial, images):
                return network
    except Exception as error:  # any error: the network itself raises it in its own place
        _log.debug("the steps of the network are not joined: %s", error)
        return network
    return _joined(network, traced, steps)


def _joined(network: nn.Module, traced: Callable[..., Tensor], steps: int) -> nn.Module:
    joined = copy.copy(network)
    # On the instance, so that the network keeps its type, attributes and hooks.
    joined.__dict__["forward"] = JoinedForward(joined, traced, steps)
    return joined


class JoinedForward:
    """The forward of a network, as traced: a function of it, with ``steps`` of it joined."""

    def __init__(self, network: nn.Module, traced: Callable[..., Tensor], steps: int) -> None:
        self.network = network
        self.steps = steps
        self.traced = traced

    def __call__(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.traced(self.network, x)
        return logits


class _Tracer(fx.Tracer):
    """Traces modules that hold a normalization; all others stay calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del module_qualified_name
        return isinstance(m, nn.BatchNorm2d) or not any(_normalizations(m))


def _normalizations(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if isinstance(part, nn.BatchNorm2d))


_MODES: Final = (torch.enable_grad, torch.no_grad, torch.inference_mode)
"""In which a network is called: it may ask which of them it is, and do something else."""


def _traced(network: nn.Module) -> tuple[fx.Graph, int]:
    """Return the traced network with every possible step joined, and how many were."""
    before = _standing(network)
    graphs: list[fx.Graph] = []
    for mode in _MODES:
        with mode():
            graphs.append(_Tracer().trace(network))
        # A number drawn or counted would be the same for ever, and so would its decisions.
        if _standing(network) != before:
            return graphs[0], 0
    # So would a branch on the state around a call.
    graph = graphs[0]
    if len({*map(str, graphs)}) > 1:
        return graph, 0
    layers = dict(network.named_modules())
    return graph, sum(_join(graph, node, layers) for node in list(graph.nodes))


def _randomness() -> tuple[object, ...]:
    """Return where the generators of random numbers stand."""
    of_numpy = pickle.dumps(np.random.get_state())
    return bytes(torch.get_rng_state().numpy()), random.getstate(), of_numpy


def _standing(network: nn.Module) -> tuple[object, ...]:
    """Return the buffers that a network has written and the states of the random generators."""
    written = [(id(buffer), buffer._version) for buffer in network.buffers()]
    return written, [_attributes(module) for module in network.modules()], _randomness()


def _attributes(module: nn.Module) -> dict[str, bytes | str]:
    """Return a module's attributes beside layers and tensors, written so that changes show."""
    results: dict[str, bytes | str] = {}
    for name, value in vars(module).items():
        if name in ("_modules", "_parameters", "_buffers"):
            continue
        try:
            results[name] = pickle.dumps(value)
        except Exception:  # whatever it is, like a lambda
            results[name] = repr(value)
    return results


def _join(graph: fx.Graph, node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    """Replace a ReLU of a normalization, or of its sum with something; return whether it was."""
    before = _rectifies(node, layers)
    if before is None or len(before.users) > 1:
        return False
    norm, other = _summands(before, layers)
    if norm is None:
        return False
    with graph.inserting_before(node):
        layer = graph.get_attr(str(norm.target))
        args = (layer, norm.args[0], *other)
        node.replace_all_uses_with(graph.call_function(rectified, args))
    graph.erase_node(node)
    graph.erase_node(before)
    if other:
        graph.erase_node(norm)
    return True


def _summands(
    node: fx.Node, layers: dict[str, nn.Module]
) -> tuple[fx.Node | None, tuple[fx.Node, ...]]:
    """Return the normalization that a node is, or is the sum of and something, and that."""
    if _normalizes(node, layers):
        return node, ()
    is_sum = node.op == "call_function" and node.target in _SUMS and not node.kwargs
    sides = [side for side in node.args if isinstance(side, fx.Node)] if is_sum else []
    if len(sides) != 2:
        return None, ()
    # An addition in place changes the left side, which must be the normalization's own then.
    ways = [sides] if node.target is operator.iadd else [sides[::-1], sides]
    for norm, other in ways:
        if _normalizes(norm, layers):
            return norm, (other,)
    return None, ()


def _rectifies(node: fx.Node, layers: dict[str, nn.Module]) -> fx.Node | None:
    """Return the node that a node is the ReLU of."""
    if node.op == "call_module":
        layer = layers[str(node.target)]
        is_relu = type(layer) is nn.ReLU and not has_hooks(layer)
    elif node.op == "call_method":
        is_relu = node.target in ("relu", "relu_")
    else:
        is_relu = node.op == "call_function" and node.target in _RELUS
    first = node.args[0] if is_relu and node.args else None
    return first if isinstance(first, fx.Node) else None


def _normalizes(node: object, layers: dict[str, nn.Module]) -> bool:
    """Tell whether a node is a normalization that nothing else looks at."""
    return (
        isinstance(node, fx.Node)
        and node.op == "call_module"
        and isinstance(layers[str(node.target)], nn.BatchNorm2d)
        and len(node.users) == 1
        and len(node.args) == 1
        and not node.kwargs
    )


def has_hooks(layer: nn.Module) -> bool:
    """Return whether a layer does more, when it is called, than its forward."""
    return any(
        (
            layer._forward_hooks,
            layer._forward_pre_hooks,
            layer._backward_hooks,
            layer._backward_pre_hooks,
        )
    )


def _without_graph(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the logits of images where no gradient is asked for, in each way of not asking."""
    results = []
    for mode in _MODES[1:]:
        with mode():
            results.append(network(images).clone())
    return results


def _is_same(joined: nn.Module, network: nn.Module, images: Tensor) -> bool:
    """Return whether two calls of each answer the same: state must go on too."""
    drawn = _randomness()
    results = [
        [*answers(part, images), *answers(part, images), *_without_graph(part, images)]
        for part in (network, joined)
    ]
    same = all(torch.equal(part, other) for part, other in zip(*results, strict=True))
    return same and _randomness() == drawn
