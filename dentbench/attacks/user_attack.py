"""An attack of a user, ``module:callable``: any tool's, behind one function.

It is called with a classifier, images (b, C, H, W) in [0, 1], labels (b,) and the threat model
(``norm``, ``eps``), and returns points (b, C, H, W). It asks the classifier about all of the
images that it was handed, in their order; what it asks is remembered, and its points are
projected, clipped and judged as any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.errors import DentBenchError, ModelError, SpecError
from dentbench.identity.user_code import load, sha256_of


def attack_name_of(text: str) -> str:
    """Return the name of a user's attack ``module:callable``: with the hash of its source.

    Raises :class:`~dentbench.errors.SpecError` for one that cannot be had.
    """
    return f"{text.partition('@')[0]}@{_imported(text)[1]}"


class UserAttack:
    """A user's attack as AutoAttack's are: an object with ``perturb``."""

    def __init__(self, name: str, classify: Classifier, threat: ThreatModel, seed: int) -> None:
        self.text = name.partition("@")[0]
        self.function, sha256 = _imported(name)
        if name != f"{self.text}@{sha256}":
            raise SpecError(f"the source of attack {self.text} was changed; run the command again")
        self.classify = classify
        self.threat = threat
        self.seed = seed

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the points that it finds, checked; torch's random numbers start from a seed."""
        torch.manual_seed(self.seed)
        try:
            with torch.enable_grad():
                points = self.function(self.classify, images, labels, self.threat)
        except (DentBenchError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever a user's function raises
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"attack {self.text} fails: {reason}") from error
        if not isinstance(points, Tensor) or points.shape != images.shape:
            got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
            raise ModelError(
                f"attack {self.text} returned {got}, not points of shape {tuple(images.shape)}"
            )
        if not points.is_floating_point() or not bool(torch.isfinite(points).all()):
            raise ModelError(f"attack {self.text} returned points that are not finite numbers")
        return self.threat.project(points.detach().to(images), images)


def _imported(text: str) -> tuple[Callable[..., Any], str]:
    """Return the callable that a name stands for, and 12 digits of its source's hash."""
    text = text.partition("@")[0]
    try:
        found, files = load(text)
    except Exception as error:  # whatever a user's module raises when it is imported
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SpecError(
            f"attack {text!r} cannot be made: it cannot be imported ({reason[0]})"
        ) from error
    if not callable(found):
        raise SpecError(
            f"attack {text!r} is not callable but of type {type(found).__name__}; name a function "
            "of a classifier, images, labels and a threat model that returns points"
        )
    return found, sha256_of(files)[:12]
