"""Before a run: what is evaluated is the network that was handed in, and dent adapts that one.

A network is computed in a faster way, and dent computes it with other scales and shifts. Either is
compared with the network itself: where nothing has moved, where scales and shifts have, and where
the gradient comes from. What cannot be the same is refused in words.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dentbench.adapt.dent import Adaptation, Dent
from dentbench.adapt.layers import KINDS, adapted_layers
from dentbench.attacks.base import Classifier
from dentbench.errors import ModelError
from dentbench.spec.evaluation import DentSpec

FEW: Final = 2
"""On how many images networks are compared, where their answers do not depend on how many."""

LOGITS: Final = 1e-3
"""By what part of their range logits may differ; rounding takes a hundredth of it."""

GRADIENTS: Final = 2e-2
"""By what part of its length a gradient may differ: a rounded ReLU changes a little of it."""

STILL: Final = 1e-12
"""A learning rate by which nothing moves."""

MOVED: Final = 0.1
"""By what part of themselves scales and shifts are moved, to see that the answers follow."""

_ADVICE: Final = (
    "its code asks for something that a copy of it answers otherwise, such as a forward put onto a "
    "layer, torch.is_grad_enabled(), tensors of a layer that is not called, threads or "
    "checkpointing; rewrite that part"
)


def require_same_network(trial: Trial, prepared: nn.Module) -> None:
    """Raise :class:`~dentbench.errors.ModelError` unless the network is computed as it is.

    ``trial``: of the one handed in. ``prepared``: as it is computed.
    """
    if prepared is trial.network:
        return
    different = trial.difference(lambda: copy.deepcopy(prepared))
    if different:
        raise ModelError(
            f"the network, computed as a whole, is not the one handed in: {different}; {_ADVICE}"
        )


def require_same_in_dent(trial: Trial, prepared: nn.Module, spec: DentSpec) -> None:
    """Raise :class:`~dentbench.errors.ModelError` unless dent computes the network handed in.

    With no step and with steps of no length it must answer as the network does; with other scales
    and shifts, as the network with these in its layers. ``spec``: of dent; what is blurred or
    normalized by it otherwise is left out. The others are those of :func:`require_same_network`.
    """
    try:
        different = _difference_in_dent(trial, prepared, spec)
    except ModelError:
        raise
    except Exception as error:  # whatever the code of a network raises when dent runs it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        different = f"dent cannot run it ({reason})"
    if different:
        raise ModelError(
            f"dent does not compute the network handed in: {different}; {_ADVICE}, or choose a "
            "--defense that adapts nothing"
        )


def _difference_in_dent(trial: Trial, prepared: nn.Module, spec: DentSpec) -> str:
    """Return in words how dent is another network, or ""."""
    norms = _batchnorms(trial.network, spec.layers)
    running = all(layer.running_mean is not None for layer in norms)
    own = trial
    if not running:
        own = replace(trial, network=_without_statistics(trial.network, spec.layers))
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
        size = len(trial.images) if spec.separable else None
        return Dent(copy.deepcopy(prepared), spec, batch_size=size)

    if running:  # else its layers have none to begin with
        different = trial.difference(lambda: dent(_resting(spec)))
        if different:
            return f"with no step {different}"
    different = _difference_moved(own, dent(still))
    if different:
        return different
    if trial.pure:
        different = own.difference(lambda: _adapted(dent(still), trial.images))
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
    found = (layer for _, layer in adapted_layers(network, layers))
    return [layer for layer in found if isinstance(layer, nn.BatchNorm2d)]


def _adapted(dent: Dent, images: Tensor) -> Classifier:
    """Return dent with its adaptation to images made already, so that it draws no numbers later."""
    adaptation = dent.adapt(images)
    return lambda x: dent.predict(x, adaptation)


@dataclass(frozen=True)
class Trial:
    """A network and images to compare others with it on.

    ``pure``: whether a second call of the network answers as the first.
    """

    network: nn.Module
    images: Tensor
    pure: bool

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> Trial | None:
        """Return a trial on a few images, on all where the answers depend on how many there are.

        ``images`` (B, C, H, W): the first declared batch. None where the network does not answer;
        others tell why.
        """
        images = _off_kinks(images)
        few = images[:FEW]
        alone, whole = (_attempt(copy.deepcopy(network), x) for x in (few, images))
        if alone is None and whole is None:
            return None
        same = alone is not None and (whole is None or not _apart(alone, whole[: len(few)]))
        shown = few if same else images
        twice = copy.deepcopy(network)
        first, second = (_answer(twice, shown) for _ in range(2))
        return cls(network, shown, torch.equal(first.nan_to_num(), second.nan_to_num()))

    def difference(self, make: Callable[[], Classifier]) -> str:
        """Return in words how what is made answers otherwise than the network, or ""."""
        for gradients in (False, True):
            right, other = copy.deepcopy(self.network), make()
            if gradients:
                ours, gradient = _answer_and_gradient(right, self.images)
                theirs, another = _answer_and_gradient(other, self.images)
            else:
                ours, theirs = _answer(right, self.images), _answer(other, self.images)
                gradient = another = None
            mode = "with" if gradients else "without"
            apart = _apart(ours, theirs)
            if apart:
                return f"its logits {mode} gradients differ by {apart}"
            if gradient is not None and another is not None:
                apart = _gradients_apart(gradient, another)
                if apart:
                    return f"its input gradient differs by {apart}"
        return ""


def _off_kinks(images: Tensor) -> Tensor:
    """Return images a little beside these: black ones may lie at the kinks of all ReLUs at once.

    There a step of no length may turn the gradient, whoever computes it.
    """
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(images.shape, generator=generator).to(images)
    return 0.96 * images + 0.04 * noise


# --- scales and shifts that have moved ------------------------------------------------------------


def _difference_moved(trial: Trial, dent: Dent) -> str:
    """Return in words how dent's answers to moved values are not the network's, or ""."""
    start = dent.start().affine
    assert start is not None
    generator = torch.Generator().manual_seed(0)
    instance, count = dent.spec.mode == "instance", len(trial.images)
    several = 2 if instance and count > 1 and not _is_coupled(trial) else 1
    moved = [_moved(start, generator) for _ in range(several)]
    weights = _noise(torch.zeros(count, _classes(trial)), generator).to(trial.images)
    ours, ours_back = _written_in(trial, moved, weights, dent.spec.layers)

    rows = torch.stack([moved[row % several] for row in range(count)])
    affine = (rows if instance else moved[0]).clone().requires_grad_()
    with torch.enable_grad(), _seeded(trial.images):
        logits = dent.predict(trial.images, Adaptation(affine=affine, losses=start.new_zeros(0)))
        back = None
        if logits.requires_grad:
            (back,) = torch.autograd.grad((logits * weights).sum(), affine, allow_unused=True)
    apart = _apart(ours, logits.detach())
    if apart:
        return f"with other scales and shifts its logits differ by {apart} from the network's own"
    if not logits.requires_grad:
        return ""  # dent tells it in its own words when it is to adapt
    if back is None:
        return "its answers have no gradient to the scales and shifts, which dent follows"
    parts = [back[row::several].sum(0) for row in range(several)] if instance else [back]
    apart = next(filter(None, map(_gradients_apart, ours_back, parts)), "")
    return f"the gradient to its scales and shifts differs by {apart}" if apart else ""


def _moved(start: Tensor, generator: torch.Generator) -> Tensor:
    return start * (1 + MOVED * _noise(start, generator)) + MOVED * _noise(start, generator)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def _classes(trial: Trial) -> int:
    return int(_answer(copy.deepcopy(trial.network), trial.images).shape[1])


def _is_coupled(trial: Trial) -> bool:
    """Return whether an image's answer depends on what other images are beside it."""
    others = trial.images.clone()
    others[1::2] = others[1::2].flip(-1).roll(1, -2)
    kept, changed = (_answer(copy.deepcopy(trial.network), x)[::2] for x in (trial.images, others))
    return bool(_apart(kept, changed))


def _written_in(
    trial: Trial, moved: Sequence[Tensor], weights: Tensor, kinds: str
) -> tuple[Tensor, list[Tensor]]:
    """Return the logits of the network with scales and shifts in its layers, and their gradients.

    Image number i has those of ``moved`` number i modulo their number.
    """
    logits, gradients = torch.zeros_like(weights), []
    for number, flat in enumerate(moved):
        network = copy.deepcopy(trial.network).requires_grad_(False)
        layers = [layer for _, layer in adapted_layers(network, kinds)]
        leaves = [part.detach().clone().requires_grad_() for part in _parts(flat, layers)]
        with torch.enable_grad(), _seeded(trial.images), _holding(layers, leaves):
            answer = network(trial.images)
            own = slice(number, None, len(moved))
            found: Sequence[Tensor | None] = [None] * len(leaves)
            if answer.requires_grad:
                total = (answer[own] * weights[own]).sum()
                found = torch.autograd.grad(total, leaves, allow_unused=True)
        logits[own] = answer[own].detach().to(logits)
        pairs = zip(leaves, found, strict=True)
        gradients.append(
            torch.cat(
                [(leaf.detach() * 0 if back is None else back).flatten() for leaf, back in pairs]
            )
        )
    return logits, gradients


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
            for one in {layer, *others}:
                if parametrize.is_parametrized(one, name):
                    parametrize.remove_parametrizations(one, name)
                changed.append((one, name, one._parameters.pop(name)))
                one.__dict__[name] = part
    try:
        yield
    finally:
        for one, name, former in reversed(changed):
            one.__dict__.pop(name, None)
            one._parameters[name] = former


def _named_by(forward: Any, depth: int = 4) -> list[nn.Module]:
    """Return the normalizations that a function on a layer speaks of: copies keep the former."""
    if isinstance(forward, nn.Module) and isinstance(forward, tuple(KINDS.values())):
        return [forward]
    cells = getattr(forward, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells] + [getattr(forward, "__self__", None)]
    held += [getattr(forward, "func", None), *getattr(forward, "args", ())]
    found: dict[int, nn.Module] = {}
    for part in held if depth else ():
        found |= {id(one): one for one in _named_by(part, depth - 1)}
    return list(found.values())


# --- answers --------------------------------------------------------------------------------------


@contextmanager
def _seeded(images: Tensor) -> Iterator[None]:
    """Draw the same random numbers inside every block, and leave the stream as it was."""
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(0)
        yield


def _answer(network: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad(), _seeded(images):
        logits: Tensor = network(images).detach().clone()
    return logits


def _attempt(network: Classifier, images: Tensor) -> Tensor | None:
    """Return the logits, None where the network refuses images of this number, or lacks memory."""
    try:
        return _answer(network, images)
    except Exception:  # whatever the network raises
        return None


def _answer_and_gradient(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return logits, and the gradient of some function of them; None where they have none."""
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), _seeded(images):
        logits = network(leaf)
        if not logits.requires_grad:
            return logits.detach(), None
        total = logits.float().nan_to_num().logsumexp(1).sum()
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return logits.detach(), gradient


def _apart(ours: Tensor, theirs: Tensor) -> str:
    """Return in words by how much logits differ, or ""."""
    if ours.shape != theirs.shape:
        return f"their shape, {tuple(theirs.shape)} for {tuple(ours.shape)}"
    ours, theirs = ours.double().nan_to_num(), theirs.double().nan_to_num()
    spread = float(ours.amax() - ours.amin()) if ours.numel() else 0.0
    most = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    if most <= LOGITS * max(spread, 1e-6):
        return ""
    return f"up to {most:.3g} (they range over {spread:.3g})"


def _gradients_apart(ours: Tensor, theirs: Tensor) -> str:
    """Return in words by how much a gradient differs, or ""."""
    ours, theirs = ours.double().nan_to_num(), theirs.double().nan_to_num()
    length, most = float(ours.norm()), float((ours - theirs).norm())
    if most <= GRADIENTS * max(length, 1e-6):
        return ""
    return f"{most:.3g} (its length is {length:.3g})"
