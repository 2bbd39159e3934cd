"""Import and call a user's function ``module:callable`` that returns points, and check these."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from dentbench.attacks.base import ThreatModel
from dentbench.containment import contained, own_copy
from dentbench.errors import DentBenchError, ModelError, SpecError, first_line
from dentbench.identity.imported_state import imported_state
from dentbench.identity.user_code import load_callable, sha256_of

FAR: Final = 1.05
"""Points further away from their image than this many eps are warned of."""

_SOURCE: Final = 12
_STATE: Final = 8
"""How many digits of the source's hash, and of the function's state, a name has."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UserFunction:
    """A user's attack or protocol.

    ``kind``: which of the two; ``text``: "module:callable"; ``sha256``: 12 digits of the hash of
    its source; ``state``: 8 of its state once it is imported, "" where that is not stable.
    """

    kind: str
    text: str
    function: Callable[..., Any]
    sha256: str
    state: str = ""

    @classmethod
    def imported(cls, kind: str, text: str, wanted: str) -> UserFunction:
        """Import the function that a text or a name stands for; ``wanted``: a description of it.

        Raises :class:`~dentbench.errors.SpecError` for a function that cannot be imported, and for
        a name whose source is another by now.
        """
        text, _, name = text.partition("@")
        function, files = load_callable(kind, text, wanted)
        sha256 = sha256_of(files)[:_SOURCE]
        # Its state may change as it runs, and differ in another process: its source may not.
        if name[:_SOURCE] not in ("", sha256):
            raise SpecError(f"the source of {kind} {text} was changed; run the command again")
        return cls(kind, text, function, sha256, name[_SOURCE:])

    @classmethod
    def named(cls, kind: str, text: str, wanted: str) -> str:
        """Return the name in records of the function that a text stands for, as it is now.

        Raises :class:`~dentbench.errors.SpecError` for a function that cannot be imported.
        """
        function = cls.imported(kind, text.partition("@")[0], wanted)
        state = imported_state(function.function, function.text)
        return replace(function, state=state[:_STATE]).name

    @property
    def name(self) -> str:
        """Its name in records: the text with the hashes of its source and its state."""
        return f"{self.text}@{self.sha256}{self.state}"

    def __call__(self, *handed: Any) -> Any:
        """Call the function with copies of tensors, into which it may write.

        An exception becomes one sentence.
        """
        try:
            with contained():
                return self.function(*map(_copied, handed))
        except (DentBenchError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # a user's function may raise anything
            raise ModelError(f"{self.kind} {self.text} fails: {first_line(error)}") from error

    def checked(self, points: Any, images: Tensor, threat: ThreatModel) -> Tensor:
        """Return the points it returned, if they have the shape of ``images`` (B, C, H, W).

        Points outside of the ball are projected later, which is said once.
        """
        shape = tuple(images.shape)
        if not isinstance(points, Tensor) or tuple(points.shape) != shape:
            got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
            raise ModelError(f"{self.kind} {self.text} returned {got}, not points of shape {shape}")
        if not points.is_floating_point():
            raise ModelError(
                f"{self.kind} {self.text} returned points of type {points.dtype}, not floating "
                "point numbers in [0, 1]"
            )
        if not bool(torch.isfinite(points).all()):
            raise ModelError(f"{self.kind} {self.text} returned points that are not finite numbers")
        result = points.detach().to(images)
        far = threat.distance(result, images) > FAR * threat.eps
        if 2 * int(far.sum()) > len(images):
            _tell_far(self.kind, self.text, f"{threat.eps:.4g} in {threat.norm}")
        return result


def _copied(handed: Any) -> Any:
    """Return a tensor's copy, and an attack context with copies of its tensors; else the same."""
    if isinstance(handed, Tensor):
        return own_copy(handed)
    if type(handed) is tuple:
        return tuple(map(_copied, handed))
    if not is_dataclass(handed) or isinstance(handed, type):
        return handed
    held = {field.name: getattr(handed, field.name) for field in fields(handed)}
    tensors = {k: v for k, v in held.items() if isinstance(v, Tensor | tuple)}
    return replace(handed, **{name: _copied(value) for name, value in tensors.items()})


@cache
def _tell_far(kind: str, text: str, eps: str) -> None:
    """Say once that a function's points are far from its images: they may be of other images."""
    _log.warning(
        "%s %s returned points outside of the ball of eps %s around their images; they are "
        "projected into it, which weakens the attack: give the points in the order of the images",
        *(kind, text, eps),
    )
