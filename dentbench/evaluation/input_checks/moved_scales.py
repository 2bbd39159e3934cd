"""Check that dent's answers follow other scales and shifts as the network's own do."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dentbench.adapt.adaptation import Adaptation
from dentbench.adapt.dent import Dent
from dentbench.adapt.layers import KINDS, adapted_layers
from dentbench.evaluation.input_checks.reference import (
    Reference,
    answer_of,
    gradients_apart,
    logits_apart,
    seeded,
)

MOVED: Final = 0.1
"""The share of themselves by which scales and shifts are moved, to see that answers follow."""


def difference_moved(reference: Reference, dent: Dent) -> str:
    """Return in words how dent's answers differ from the network's at moved values, or ""."""
    start = dent.start().affine
    assert start is not None
    generator = torch.Generator().manual_seed(0)
    instance, count = dent.spec.mode == "instance", len(reference.images)
    several = 2 if instance and count > 1 and not _is_coupled(reference) else 1
    moved = [_moved(start, generator) for _ in range(several)]
    weights = _noise(torch.zeros(count, _classes(reference)), generator).to(reference.images)
    ours, ours_back = _written_in(reference, moved, weights, dent.spec.layers)

    affine = _rows(moved, count, instance=instance).clone().requires_grad_()
    with torch.enable_grad(), seeded(reference.images):
        logits = dent.predict(
            reference.images, Adaptation(affine=affine, losses=start.new_zeros(0))
        )
        back = None
        if logits.requires_grad:
            (back,) = torch.autograd.grad((logits * weights).sum(), affine, allow_unused=True)
    apart = logits_apart(ours, logits.detach(), reference.rounding)
    if apart:
        return f"with other scales and shifts its logits differ by {apart} from the network's own"
    apart = _in_whole_batch(reference, dent, moved, logits.detach())
    if apart:
        return f"in a whole batch, with other scales and shifts, its logits differ by {apart}"
    if not logits.requires_grad:
        return ""  # dent itself refuses it when it is to adapt
    if back is None:
        return "its answers have no gradient to the scales and shifts, which dent follows"
    parts = [back[row::several].sum(0) for row in range(several)] if instance else [back]
    pairs = zip(ours_back, parts, strict=True)
    apart = next(filter(None, (gradients_apart(*two, reference.rounding) for two in pairs)), "")
    return f"the gradient to its scales and shifts differs by {apart}" if apart else ""


def _rows(moved: Sequence[Tensor], count: int, *, instance: bool) -> Tensor:
    """Return the values of so many images in turn, or of all, laid out as dent takes them."""
    rows = [moved[row % len(moved)] for row in range(count)]
    return torch.stack(rows) if instance else moved[0]


def _in_whole_batch(reference: Reference, dent: Dent, moved: Sequence[Tensor], few: Tensor) -> str:
    """Return in words how dent's answers to few images differ in the whole batch, or "".

    A network that cuts its batch may do so from some number of images on.
    """
    count = len(reference.whole)
    if count == len(few) or not reference.pure:
        return ""
    affine = _rows(moved, count, instance=dent.spec.mode == "instance")
    with torch.enable_grad(), seeded(reference.images):  # nothing here has a gradient
        losses = affine.new_zeros(0)
        logits = dent.predict(reference.whole, Adaptation(affine=affine, losses=losses))
    return logits_apart(few, logits[: len(few)], reference.rounding)


def _moved(start: Tensor, generator: torch.Generator) -> Tensor:
    return start * (1 + MOVED * _noise(start, generator)) + MOVED * _noise(start, generator)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def _classes(reference: Reference) -> int:
    return int(answer_of(copy.deepcopy(reference.network), reference.images).shape[1])


def _is_coupled(reference: Reference) -> bool:
    """Return whether an image's answer depends on its batch mates."""
    others = reference.images.clone()
    others[1::2] = others[1::2].flip(-1).roll(1, -2)
    kept, changed = (
        answer_of(copy.deepcopy(reference.network), x)[::2] for x in (reference.images, others)
    )
    return bool(logits_apart(kept, changed))


def _written_in(
    reference: Reference, moved: Sequence[Tensor], weights: Tensor, kinds: str
) -> tuple[Tensor, list[Tensor]]:
    """Return the logits of the network with scales and shifts in its layers, and their gradients.

    Image number i has those of ``moved`` number i modulo their number.
    """
    logits, gradients = torch.zeros_like(weights), []
    for number, flat in enumerate(moved):
        network = copy.deepcopy(reference.network).requires_grad_(False)
        layers = [layer for _, layer in adapted_layers(network, kinds)]
        leaves = [part.detach().clone().requires_grad_() for part in _parts(flat, layers)]
        _write(layers, leaves)
        with torch.enable_grad(), seeded(reference.images), _holding(layers, leaves):
            answer = network(reference.images)
            own = slice(number, None, len(moved))
            grads: Sequence[Tensor | None] = [None] * len(leaves)
            if answer.requires_grad:
                total = (answer[own] * weights[own]).sum()
                grads = torch.autograd.grad(total, leaves, allow_unused=True)
        logits[own] = answer[own].detach().to(logits)
        pairs = zip(leaves, grads, strict=True)
        gradients.append(
            torch.cat(
                [(leaf.detach() * 0 if back is None else back).flatten() for leaf, back in pairs]
            )
        )
    return logits, gradients


@torch.no_grad()
def _write(layers: Sequence[nn.Module], leaves: Sequence[Tensor]) -> None:
    """Change the tensors themselves too, for whatever else has them."""
    names = ["weight"] * len(layers) + ["bias"] * len(layers)
    for layer, name, part in zip([*layers, *layers], names, leaves, strict=True):
        own = layer._parameters.get(name)
        if own is not None:
            own.copy_(part)


def _parts(flat: Tensor, layers: Sequence[Any]) -> list[Tensor]:
    """Return the scales of all layers, then their shifts, from one tensor of dent's."""
    sizes = [layer.weight.numel() for layer in layers]
    parts = [half.split(sizes) for half in flat.chunk(2)]
    return [
        part.view_as(layer.weight)
        for half in parts
        for part, layer in zip(half, layers, strict=True)
    ]


@contextmanager
def _holding(layers: Sequence[nn.Module], leaves: Sequence[Tensor]) -> Iterator[None]:
    """Let layers have scales and shifts inside the block, those included that stand for them."""
    changed: list[tuple[nn.Module, str, Any]] = []
    count = len(layers)
    named = [_named_by(layer.__dict__.get("forward")) for layer in layers]
    for name, parts in (("weight", leaves[:count]), ("bias", leaves[count:])):
        for layer, others, part in zip(layers, named, parts, strict=True):
            for module in {layer, *others}:
                if parametrize.is_parametrized(module, name):
                    _give_own_class(module)
                    parametrize.remove_parametrizations(module, name)
                changed.append((module, name, module._parameters.pop(name)))
                module.__dict__[name] = part
    try:
        yield
    finally:
        for module, name, former in reversed(changed):
            module.__dict__.pop(name, None)
            module._parameters[name] = former


def _give_own_class(module: nn.Module) -> None:
    """Give a parametrized module, a copy, a class that is not its original's too.

    To take a parametrization away deletes its property from the class.
    """
    kind = type(module)
    own = {
        name: made for name, made in vars(kind).items() if name not in ("__dict__", "__weakref__")
    }
    module.__class__ = type(kind.__name__, kind.__bases__, own)


def _named_by(forward: Any, depth: int = 4) -> list[nn.Module]:
    """Return the normalizations that a function on a layer names: copies name the former."""
    if isinstance(forward, nn.Module) and isinstance(forward, tuple(KINDS.values())):
        return [forward]
    cells = getattr(forward, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells] + [getattr(forward, "__self__", None)]
    held += [getattr(forward, "func", None), *getattr(forward, "args", ())]
    modules: dict[int, nn.Module] = {}
    for part in held if depth else ():
        modules |= {id(module): module for module in _named_by(part, depth - 1)}
    return list(modules.values())
