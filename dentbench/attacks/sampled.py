"""Keep some of the answers that an attack is given, and ask the same questions again after it.

A deterministic defense gives the same answer to both, whoever asks, in any mode and at any time. A
defense that recognizes its attacker gives the judge another answer, be it as a whole or under an
adaptation that the attack keeps.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from dentbench.attacks.base import OFFERS, Classifier, answered, scale_of
from dentbench.attacks.checks import SAME

KEPT: Final = 2
"""How many questions of an attack are kept, of each kind, each as likely as any other."""

Question: TypeAlias = "tuple[Classifier, Tensor, Tensor]"
"""Who was asked, about which images (B, C, H, W), and the answer (B, classes)."""


class Sampled:
    """Shows an attack a defense, with the parts that it has, and keeps a few of its answers.

    Those of the whole defense, and those of ``predict``, with their adaptations.
    """

    def __init__(self, defense: Classifier, seed: int) -> None:
        self.defense = defense
        self._whole = _Reservoir(random.Random(seed))
        self._parts = _Reservoir(random.Random(seed))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        logits = self.defense(x)
        self._whole.offer(lambda: (self.defense, x.detach().clone(), logits.detach().clone()))
        return logits

    def __getattr__(self, name: str) -> Any:
        if name not in OFFERS:
            raise AttributeError(name)
        part = getattr(self.defense, name)
        return partial(self._predict, part) if name == "predict" else part

    def _predict(self, predict: Callable[..., Tensor], x: Tensor, adaptation: Any) -> Tensor:
        logits = predict(x, adaptation)

        def question() -> Question:
            kept = _without_graph(adaptation)
            return partial(predict, adaptation=kept), x.detach().clone(), logits.detach().clone()

        self._parts.offer(question)
        return logits

    @torch.no_grad()
    def asked_again(self, judge: Callable[[Classifier, Tensor], Tensor]) -> tuple[int, int]:
        """Ask the questions kept again; return of how many images, and how many answers differ.

        Two answers differ if they are further apart than rounding explains, or if only one of them
        is finite. ``judge``: asks a classifier as the judge of final points does.
        """
        images = differ = 0
        for asked, x, before in (*self._whole.kept, *self._parts.kept):
            after = judge(asked, x)
            same = answered(before) == answered(after)
            known = answered(before) & answered(after)
            apart = torch.where(known[:, None], after - before, 0).abs().amax(1)
            far = apart > SAME * scale_of(before[known]) if bool(known.any()) else ~known & known
            images, differ = images + len(x), differ + int((far | ~same).sum())
        return images, differ


class _Reservoir:
    """Keeps a few of the questions that it is offered, each as likely as any other."""

    def __init__(self, draw: random.Random) -> None:
        self.kept: list[Question] = []
        self._draw = draw
        self._offered = 0

    def offer(self, question: Callable[[], Question]) -> None:
        self._offered += 1
        full = len(self.kept) == KEPT
        place = self._draw.randrange(self._offered) if full else len(self.kept)
        if place < KEPT:
            self.kept[place : place + 1] = [question()]


def _without_graph(adaptation: Any, depth: int = 3) -> Any:
    """Return an adaptation whose tensors carry no graph, be they inside containers or attributes.

    Else a question that is kept would keep all that the adaptation was computed from.
    """
    if isinstance(adaptation, Tensor):
        return adaptation.detach() if adaptation.grad_fn is not None else adaptation
    held = _parts(adaptation) if depth else {}
    plain = {name: _without_graph(value, depth - 1) for name, value in held.items()}
    if all(plain[name] is value for name, value in held.items()):
        return adaptation
    if isinstance(adaptation, dict):
        return plain
    if isinstance(adaptation, tuple | list):
        make = getattr(adaptation, "_make", type(adaptation))  # of a named tuple
        return make(plain.values())
    with suppress(Exception):  # a user's object may raise anything
        copied = copy.copy(adaptation)
        vars(copied).update(plain)
        return copied
    return adaptation


def _parts(adaptation: Any) -> dict[Any, Any]:
    """Return what a container holds, or an object's attributes, by key, number or name."""
    if isinstance(adaptation, dict):
        return adaptation
    if isinstance(adaptation, tuple | list):
        return dict(enumerate(adaptation))
    held: dict[str, Any] = getattr(adaptation, "__dict__", {})
    return held
