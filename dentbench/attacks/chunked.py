"""Show a defense a few images at a time, to save memory, where it answers each on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dentbench.attacks.base import OFFERS, Classifier, offers
from dentbench.attacks.counting import CallCounter

Answer: TypeAlias = Callable[..., Tensor]
"""Maps some images (n, C, H, W) to a defense's answer, a row for each."""


@dataclass(frozen=True)
class LazyUnroll:
    """The unrolled adaptation to some images, computed when needed, because it carries a graph."""

    unroll: Callable[..., Any]
    images: Tensor
    settings: Mapping[str, Any]


class Chunked:
    """Shows a defense at most ``size`` images at a time; an attack goes on seeing the whole batch.

    The graph of no part is kept: on the way back each part is computed again, alone, so that
    the activations of one part are there at a time. These second forwards are not counted: an
    attack's cost in passes does not depend on the memory it is run in; its seconds do.

    ``adapt``, ``predict`` and the other parts are there where the defense has them; their
    adaptation is a tuple, an entry for each part, and fits the images that it was made for only.
    The answers are the defense's, up to rounding, if each image's is independent of its batch
    mates; they have first derivatives only, of the random numbers of torch that they drew.
    """

    def __init__(self, defense: Classifier, size: int, counter: CallCounter) -> None:
        self.defense = defense
        self.size = size
        self.counter = counter

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        if {"adapt", "predict"} <= offers(self.defense):
            logits: Tensor = self.predict(x, self.adapt(x))
            return logits
        return torch.cat([self._answer(self.defense, part) for part in x.split(self.size)])

    def __getattr__(self, name: str) -> Any:
        if name not in OFFERS:
            raise AttributeError(name)
        inner = getattr(self.defense, name)
        parts: dict[str, Callable[..., Any]] = {
            "adapt": self._adapt,
            "unroll": self._unroll,
            "trajectory": self._trajectory,
        }
        outer = parts.get(name, self._under)
        return update_wrapper(partial(outer, inner), inner)  # it keeps its signature

    def _adapt(self, adapt: Callable[..., Any], x: Tensor) -> tuple[Any, ...]:
        return tuple(adapt(part) for part in x.split(self.size))

    def _unroll(self, unroll: Callable[..., Any], x: Tensor, **settings: Any) -> tuple[Any, ...]:
        return tuple(LazyUnroll(unroll, part, settings) for part in x.split(self.size))

    def _trajectory(self, trajectory: Callable[..., Any], x: Tensor) -> list[tuple[Any, ...]]:
        return list(zip(*(trajectory(part) for part in x.split(self.size)), strict=True))

    def _under(self, answer: Answer, x: Tensor, adaptation: tuple[Any, ...]) -> Tensor:
        """Return the values of a function of images and an adaptation, part by part."""
        pairs = zip(x.split(self.size), adaptation, strict=True)
        return torch.cat([self._adapted(answer, part, own) for part, own in pairs])

    def _adapted(self, answer: Answer, part: Tensor, adaptation: Any) -> Tensor:
        if not isinstance(adaptation, LazyUnroll):
            return self._answer(lambda x: answer(x, adaptation), part)
        unroll = partial(adaptation.unroll, **adaptation.settings)
        return self._answer(lambda x, seen: answer(x, unroll(seen)), part, adaptation.images)

    def _answer(self, answer: Answer, *images: Tensor) -> Tensor:
        """Return an answer whose graph, if any, is not kept but made again when needed."""
        if torch.is_grad_enabled() and any(part.requires_grad for part in images):
            result: Tensor = Recompute.apply(answer, self.counter, *images)
            return result
        return answer(*images)


class Recompute(torch.autograd.Function):
    """An answer whose graph is not kept: it is computed again on the way back."""

    @staticmethod
    def forward(ctx: Any, answer: Answer, counter: CallCounter, *images: Tensor) -> Tensor:
        """Return the answer to images, and keep no graph of it."""
        ctx.save_for_backward(*images)
        ctx.answer, ctx.counter = answer, counter
        ctx.gpus = [images[0].device] if images[0].is_cuda else []
        ctx.states = torch.get_rng_state(), *map(torch.cuda.get_rng_state, ctx.gpus)
        result = _with_graph(answer, images)[0]
        output = result.detach()
        if not result.requires_grad:
            ctx.mark_non_differentiable(output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the images, by computing the answer again."""
        with ctx.counter.uncounted(), torch.random.fork_rng(ctx.gpus):
            torch.set_rng_state(ctx.states[0])
            for gpu, state in zip(ctx.gpus, ctx.states[1:], strict=True):
                torch.cuda.set_rng_state(state, gpu)
            result, leaves = _with_graph(ctx.answer, ctx.saved_tensors)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        grads = iter(torch.autograd.grad(result, wanted, grad, allow_unused=True))
        return None, None, *(next(grads) if leaf.requires_grad else None for leaf in leaves)


def _with_graph(answer: Answer, images: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the answer with a graph of its own, and the leaves of that graph."""
    leaves = [image.detach().requires_grad_(image.requires_grad) for image in images]
    with torch.enable_grad():
        return answer(*leaves), leaves
