"""Keep some of the answers that an attack is given, and ask the same questions again after it.

A deterministic defense gives the same answer to both, whoever asks, in any mode and at any time. A
defense that recognizes its attacker gives the judge another answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from dentbench.attacks.base import OFFERS, Classifier, answered, scale_of
from dentbench.attacks.checks import SAME

KEPT: Final = 2
"""How many questions of an attack are kept, each as likely as any other."""


class Sampled:
    """Shows an attack a defense, with the parts that it has, and keeps a few of its answers."""

    def __init__(self, defense: Classifier, seed: int) -> None:
        self.defense = defense
        self._draw = random.Random(seed)
        self._asked = 0
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        logits = self.defense(x)
        self._asked += 1
        full = len(self._kept) == KEPT
        place = self._draw.randrange(self._asked) if full else len(self._kept)
        if place < KEPT:
            question = x.detach().clone(), logits.detach().clone()
            self._kept[place : place + 1] = [question]
        return logits

    def __getattr__(self, name: str) -> Any:
        if name not in OFFERS:
            raise AttributeError(name)
        return getattr(self.defense, name)

    @torch.no_grad()
    def asked_again(self, judge: Callable[[Classifier, Tensor], Tensor]) -> tuple[int, int]:
        """Ask the questions kept again; return of how many images, and how many answers differ.

        Two answers differ if they are further apart than rounding explains, or if only one of them
        is finite. ``judge``: asks a classifier as the judge of final points does.
        """
        images = differ = 0
        for x, before in self._kept:
            after = judge(self.defense, x)
            same = answered(before) == answered(after)
            known = answered(before) & answered(after)
            apart = torch.where(known[:, None], after - before, 0).abs().amax(1)
            far = apart > SAME * scale_of(before[known]) if bool(known.any()) else ~known & known
            images, differ = images + len(x), differ + int((far | ~same).sum())
        return images, differ
