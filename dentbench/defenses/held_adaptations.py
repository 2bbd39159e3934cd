"""Require that an adaptation stays what it is while a user's defense adapts to other images.

Attacks hold several at once: they compare, average and go back to them. A defense that returns one
object which it changes at every call, or keeps its state in itself, has really one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from torch import Tensor

from dentbench.attacks.base import answered, scale_of
from dentbench.attacks.rng import same_random_numbers
from dentbench.errors import ModelError

ROUNDING: Final = 1e-5
"""By how much, as a share of their range, logits may move that are computed again."""


def require_held(name: str, defense: Any, images: Tensor) -> None:
    """Raise :class:`~dentbench.errors.ModelError` for adaptations that later ones change.

    ``defense``: a copy, to be asked; it may be random, but for numbers of its own generators.
    ``images`` (B, C, H, W) in [0, 1].
    """
    if not all(hasattr(defense, part) for part in ("adapt", "predict")):
        return
    for part in ("adapt", "unroll", "trajectory"):
        moved = _moved_by(part, defense, images) if hasattr(defense, part) else 0.0
        if moved > ROUNDING:
            raise ModelError(
                f"defense {name} changes an adaptation that it has returned when its {part} is "
                f"given other images (answers under it move by {moved:.2g} of their range), and "
                "attacks hold several; return a new object, such as copy.deepcopy of its state, "
                "and let predict use no other state"
            )


def _moved_by(part: str, defense: Any, images: Tensor) -> float:
    """Return by how much answers under an adaptation move when a part adapts to other images."""
    adaptation = _seeded(defense.adapt, images)

    def answer() -> Tensor:
        logits: Tensor = _seeded(defense.predict, images, adaptation).detach()
        return logits

    before = answer()
    if _moved(before, answer()) > ROUNDING:
        return 0.0  # it is random: nothing can be told from one answer
    with suppress(Exception):  # these images are like no others
        _seeded(getattr(defense, part), 1 - images)
    return _moved(before, answer())


def _seeded(ask: Callable[..., Any], *given: Any) -> Any:
    with same_random_numbers():
        return ask(*given)


def _moved(before: Tensor, after: Tensor) -> float:
    known = answered(before) & answered(after)
    if not bool(known.any()):
        return 0.0
    return float((after - before)[known].abs().max()) / scale_of(before[known])
