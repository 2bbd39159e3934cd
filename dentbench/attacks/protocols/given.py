"""Protocols that are no entry of the catalogue: functions of a user, and points of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.protocols.base import AttackContext, Protocol, judged_only
from dentbench.errors import DentBenchError, ModelError, SpecError
from dentbench.identity.user_code import load, sha256_of


def claimed(context: AttackContext) -> AttackResult:
    """Hand the defense the points of a file, found by anyone, by any tool."""
    assert context.claimed_points is not None
    return judged_only(context.claimed_points, context)


def name_of(text: str) -> str:
    """Return the name of a user's protocol ``module:callable``: with the hash of its source.

    Raises :class:`~dentbench.errors.SpecError` for one that cannot be had.
    """
    _, sha256 = _imported(text)
    return f"{text.partition('@')[0]}@{sha256}"


def user_protocol(name: str) -> Protocol:
    """Return a user's protocol by its name, its answer checked."""
    text = name.partition("@")[0]
    function, sha256 = _imported(text)
    if name != f"{text}@{sha256}":
        raise SpecError(f"the source of protocol {text} was changed; run the command again")

    def protocol(context: AttackContext) -> AttackResult:
        try:
            found = function(context)
        except (DentBenchError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever a user's function raises
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"protocol {text} fails: {reason}") from error
        return _checked(text, found, context)

    return protocol


def _imported(text: str) -> tuple[Callable[[AttackContext], Any], str]:
    """Return the callable that ``module:callable`` names, and 12 digits of its source's hash."""
    text = text.partition("@")[0]
    try:
        found, files = load(text)
    except Exception as error:  # whatever a user's module raises when it is imported
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SpecError(
            f"protocol {text!r} cannot be made: it cannot be imported ({reason[0]})"
        ) from error
    if not callable(found):
        raise SpecError(
            f"protocol {text!r} is not callable but of type {type(found).__name__}; name a "
            "function of an attack context that returns points"
        )
    return found, sha256_of(files)[:12]


def _checked(text: str, found: Any, context: AttackContext) -> AttackResult:
    """Return what a user's protocol found, points (B, C, H, W) alone or an AttackResult."""
    points = found.points if isinstance(found, AttackResult) else found
    shape = tuple(context.images.shape)
    if not isinstance(points, Tensor) or tuple(points.shape) != shape:
        got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise ModelError(f"protocol {text} returned {got}, not points of shape {shape}")
    if not points.is_floating_point() or not bool(torch.isfinite(points).all()):
        raise ModelError(f"protocol {text} returned points that are not finite numbers")
    points = points.detach().to(context.images)
    if isinstance(found, AttackResult):
        return replace(found, points=points)
    return judged_only(points, context)
