"""A user's defense as an evaluation asks it: every answer checked, every error in words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor

from dentbench.attacks.differentiable import Path, attackable, gradient_path
from dentbench.attacks.no_answer import NoAdaptation, NoAnswers, mentions_memory
from dentbench.containment import torch_settings_kept
from dentbench.errors import DentBenchError, ModelError, first_line

MASK: Final = 1e4
"""How far below all other logits of an image a masked class counts as being."""

_ADAPTATIONS: Final = ("adapt", "unroll", "trajectory")
"""The parts that return adaptations to images."""


class Own:
    """A user's defense, every answer checked: logits (B, classes) for B images.

    It has those of ``adapt``, ``predict``, ``unroll`` and ``preprocess`` that ``inner`` has; with
    ``adapt`` and ``predict`` it is their composition, whatever calling ``inner`` would do. Where
    its answers do not lead back to the images their gradient is zero. It gets copies of the images,
    which it may change, and answers are copies, for it may use their memory again for the next.
    ``no_answers``: handles its errors.
    ``is_shared``: whether ``inner`` is an object that was handed in, for it cannot be copied.
    """

    is_shared = False

    def __init__(self, name: str, inner: Any, classes: int) -> None:
        self.name = name
        self._inner = inner
        self._classes = classes
        self._path: Path = "whole"
        self._part: Path = "whole"  # of predict alone
        separable = getattr(inner, "separable", False) is True
        self.no_answers = NoAnswers(f"defense {name}", classes, apart=separable)
        self._composed = all(
            callable(getattr(inner, method, None)) for method in ("adapt", "predict")
        )
        if not (self._composed or callable(inner)):
            raise ModelError(
                f"defense {name} is a {type(inner).__name__}; it must be callable with images, or "
                "have adapt(x) and predict(x, adaptation)"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        return attackable(self._answer_or_none, x, self._path)

    def find_path(self, images: Tensor) -> tuple[Path, Path]:
        """Return whether its logits, and those of ``predict`` alone, lead back to the images."""
        whole = gradient_path(self._answer, images)
        if not self._composed:
            return whole, whole
        adaptation = self._inner.adapt(images.clone())
        return whole, gradient_path(
            lambda x: self._checked(x, self._inner.predict(x.clone(), adaptation)), images
        )

    def adopt_path(self, paths: tuple[Path, Path]) -> None:
        """Answer from here on as :meth:`find_path` says."""
        self._path, self._part = paths

    def _answer_or_none(self, x: Tensor) -> Tensor:
        return self.no_answers(self._answer, x)

    def _answer(self, x: Tensor) -> Tensor:
        with errors_in_words(self.name, x):
            if self._composed:
                adaptation = self._inner.adapt(x.clone())
                return self._checked(x, self._inner.predict(x.clone(), adaptation))
            return self._checked(x, self._inner(x.clone()))

    def __getattr__(self, name: str) -> Any:
        if name in (*_ADAPTATIONS, "preprocess") and self.__dict__.get("_composed"):
            part = getattr(self._inner, name)
            if not callable(part):
                return part
            return self._preprocess if name == "preprocess" else self._adapting(name, part)
        if name == "predict" and self.__dict__.get("_composed"):
            return self._predict
        if name == "surrogate" and callable(getattr(self.__dict__.get("_inner"), name, None)):
            return self._surrogate
        raise AttributeError(name)

    def _adapting(self, name: str, part: Callable[..., Any]) -> Callable[..., Any]:
        """Return a part that adapts, whose errors are in words, or no adaptation."""

        def adapted(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            def ask(images: Tensor) -> Any:
                with errors_in_words(f"{self.name} ({name})", images):
                    return part(images.clone(), *args, **kwargs)

            try:
                return ask(x)
            except ModelError as error:
                if self.no_answers.raises(error):
                    raise
                self.no_answers.require_at_points_alone(ask, x, error)
            return [NoAdaptation()] if name == "trajectory" else NoAdaptation()

        return adapted

    def _preprocess(self, x: Tensor, adaptation: Any) -> Tensor:
        if isinstance(adaptation, NoAdaptation):
            return x
        with errors_in_words(f"{self.name} (preprocess)", x):
            seen: Tensor = self._inner.preprocess(x.clone(), adaptation)
        return seen

    def _surrogate(self, x: Tensor) -> Tensor:
        def ask(images: Tensor) -> Tensor:
            with errors_in_words(f"{self.name} (surrogate)", images):
                return self._checked(images, self._inner.surrogate(images.clone()))

        return self.no_answers(ask, x)

    def _predict(self, x: Tensor, adaptation: Any) -> Tensor:
        if isinstance(adaptation, NoAdaptation):
            return self.no_answers.none(x)

        def ask(images: Tensor) -> Tensor:
            with errors_in_words(f"{self.name} (predict)", images):
                return self._checked(images, self._inner.predict(images.clone(), adaptation))

        def forward(x: Tensor) -> Tensor:
            try:
                return ask(x)
            except ModelError as error:  # an adaptation is of a whole batch, so it is not cut
                if self.no_answers.raises(error):
                    raise
                self.no_answers.require_at_points_alone(self._answer, x, error)
            return self.no_answers.none(x)

        return attackable(forward, x, self._part)

    def _checked(self, x: Tensor, logits: Any) -> Tensor:
        """Return a copy of logits if they are real numbers of the right shape."""
        shape = (len(x), self._classes)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != shape:
            actual = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"defense {self.name} answered {len(x)} images with {actual}, not with logits of "
                f"shape {shape}"
            )
        if logits.is_complex():
            raise ModelError(
                f"defense {self.name} answered with numbers of type {logits.dtype}, not logits"
            )
        return _masks_finite(logits.clone())


def _masks_finite(logits: Tensor) -> Tensor:
    """Return logits (B, classes) with finite numbers where a row masks some classes by -inf.

    Such a row is an answer; one of nothing else, or with NaN or inf, is none.
    """
    masked = torch.isneginf(logits)
    rows = masked.any(1, keepdim=True) & ~masked.all(1, keepdim=True)
    if not bool(rows.any()):
        return logits
    least = logits.detach().masked_fill(masked, torch.inf).amin(1, keepdim=True)
    return torch.where(masked & rows, least - MASK, logits)


@contextlib.contextmanager
def errors_in_words(name: str, images: Tensor) -> Iterator[None]:
    """Raise in one sentence that a user's defense fails; but not for a lack of memory.

    ``images``: those that it was shown. Settings of torch that it changes are set back.
    """
    with torch_settings_kept():
        enabled = torch.is_grad_enabled()
        try:
            yield
            if torch.is_grad_enabled() != enabled:
                raise ModelError(
                    f"defense {name} switches gradients off, or on, and leaves them so; write a "
                    "block, with torch.no_grad(), in place of torch.set_grad_enabled"
                )
        except DentBenchError:
            raise
        except Exception as error:  # whatever a user's defense raises
            if mentions_memory(error):
                raise
            shape = tuple(images.shape) if isinstance(images, Tensor) else "?"
            raise ModelError(
                f"defense {name} fails on images of shape {shape}: {first_line(error)}"
            ) from error
