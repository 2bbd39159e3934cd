"""Count an error that a user's code raises at an adversarial point as a wrong answer.

A defense may refuse a point, fail to invert a matrix there, or return nothing. Like NaN logits that
is a success of the attack, not the end of a run. An error that as many natural images raise too, in
the same gradient mode, is a fault of the code and is raised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from dentbench.errors import UserExitError, first_line

_log = logging.getLogger(__name__)

_warned: Final[set[str]] = set()
"""The defenses and networks whose errors this process has warned of."""

Ask = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) to logits (B, classes), or raises."""


class NoAdaptation:
    """The adaptation to images that a defense cannot adapt to: with it, no image is answered."""


class NoAnswers:
    """Puts NaN logits in the place of errors that adversarial points raise.

    ``who`` fails, in words. ``natural`` (N, C, H, W): images that it answers; None: every error is
    raised. ``apart``: each image is answered on its own, so that of a batch only those count as
    unanswered that raise an error by themselves.
    """

    def __init__(self, who: str, classes: int, *, apart: bool) -> None:
        self.who = who
        self.classes = classes
        self.apart = apart
        self._natural: Tensor | None = None

    @property
    def natural(self) -> Tensor | None:
        """Images (N, C, H, W) that are answered."""
        return self._natural

    @natural.setter
    def natural(self, images: Tensor) -> None:
        # A view would take the memory of all images along wherever its owner is copied or sent.
        self._natural = images.clone()

    def __call__(self, ask: Ask, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W), NaN where there are none."""
        try:
            return ask(x)
        except Exception as error:  # code of a user may raise anything
            if self.raises(error):
                raise
            self.require_at_points_alone(ask, x, error)
        return self._in_parts(ask, x)

    def raises(self, error: Exception) -> bool:
        """Return whether an error says nothing of the images, and so must be raised again.

        By ``raise`` alone: a frame that held an error of memory would keep the tensors that
        filled it.
        """
        return self.natural is None or mentions_memory(error) or isinstance(error, UserExitError)

    def require_at_points_alone(self, ask: Callable[[Tensor], Any], x: Tensor, error: Any) -> None:
        """Raise an error again unless ``ask`` answers as many natural images as ``x`` has.

        Else warn of it, once. ``error``: one for which :meth:`raises` is false.
        """
        assert self.natural is not None
        rows = torch.arange(len(x), device=x.device) % len(self.natural)
        images = self.natural.to(x)[rows].requires_grad_(x.requires_grad)
        try:
            ask(images.view_as(images))  # an attack's images are no leaf
        except Exception:
            raise error from None
        if self.who not in _warned:
            _warned.add(self.who)
            said = first_line(error)
            sentence = said if self.who in said else f"{self.who} fails: {said}"
            _log.warning("%s; natural images are answered, so such points count as wrong", sentence)

    def none(self, x: Tensor) -> Tensor:
        """Return NaN logits (B, classes) for images, with a gradient of zero."""
        logits = x.new_full((len(x), self.classes), torch.nan)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)

    def _in_parts(self, ask: Ask, x: Tensor) -> Tensor:
        if not self.apart or len(x) < 2:
            return self.none(x)
        return torch.cat([self._part(ask, part) for part in x.tensor_split(2)])

    def _part(self, ask: Ask, x: Tensor) -> Tensor:
        try:
            return ask(x).to(x.dtype)
        except Exception as error:
            if mentions_memory(error):
                raise
        return self._in_parts(ask, x)


def mentions_memory(error: BaseException) -> bool:
    """Return whether an error may be one of memory, which says nothing of the images."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()
