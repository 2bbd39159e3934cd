"""Protocols that are no entry of the catalogue: functions of a user, and points of a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.protocols.base import AttackContext, Protocol, judged_only
from dentbench.attacks.user_function import UserFunction

_WANTED: Final = "a function of an attack context that returns points"


def claimed(context: AttackContext) -> AttackResult:
    """Hand the defense the points of a file, made by any tool."""
    assert context.claimed_points is not None
    return judged_only(context.claimed_points, context)


def name_of(text: str) -> str:
    """Return the name of a user's protocol ``module:callable``: with the hash of its code.

    Raises :class:`~dentbench.errors.SpecError` for a protocol that cannot be imported.
    """
    return UserFunction.named("protocol", text, _WANTED)


def user_protocol(name: str) -> Protocol:
    """Return a user's protocol by its name; it may return points (B, C, H, W) or a result."""
    function = UserFunction.imported("protocol", name, _WANTED)

    def protocol(context: AttackContext) -> AttackResult:
        result, threat = function(context), ThreatModel.of(context.spec.attack)
        if isinstance(result, AttackResult):
            return replace(result, points=function.checked(result.points, context.images, threat))
        return judged_only(function.checked(result, context.images, threat), context)

    return protocol
