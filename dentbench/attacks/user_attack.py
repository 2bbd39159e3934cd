"""Run a user's attack, ``module:callable``: any tool's, behind a function.

It is called with a classifier, images (b, C, H, W) in [0, 1], labels (b,) and the threat model
(``norm``, ``eps``), and returns points (b, C, H, W). It asks the classifier about all of the
images that it was handed, in their order; the answers are kept, and its points are
projected, clipped and judged as any.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.user_function import UserFunction

_WANTED: Final = "a function of a classifier, images, labels and a threat model that returns points"


def attack_name_of(text: str) -> str:
    """Return the name of a user's attack ``module:callable``: with the hash of its code.

    Raises :class:`~dentbench.errors.SpecError` for an attack that cannot be imported.
    """
    return UserFunction.named("attack", text, _WANTED)


class UserAttack:
    """A user's attack with the interface of AutoAttack's: an object with ``perturb``."""

    def __init__(self, name: str, classify: Classifier, threat: ThreatModel, seed: int) -> None:
        self.function = _imported(name)
        self.classify = classify
        self.threat = threat
        self.seed = seed

    def perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the points that it finds, checked; torch's random numbers start from a seed."""
        torch.manual_seed(self.seed)
        with torch.enable_grad():
            points = self.function(self.classify, images, labels, self.threat)
        return self.threat.project(self.function.checked(points, images, self.threat), images)


def _imported(text: str) -> UserFunction:
    return UserFunction.imported("attack", text, _WANTED)
