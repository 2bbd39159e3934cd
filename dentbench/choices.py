"""Choices that are written as one text each: a threat model, a setting of dent. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dentbench.errors import SpecError
from dentbench.spec import DentSpec, field_names


def parse_threat(text: str) -> tuple[str, str]:
    """Return norm and eps, as written, of a threat model such as "Linf:1.5/255" or "L2:0.2"."""
    norm, colon, eps = text.partition(":")
    if not (norm and colon and eps):
        raise SpecError(f"threat is {text!r}; write NORM:EPS, such as Linf:1.5/255 or L2:0.2")
    return norm, eps


SET_NAMES: Final = (
    *("beta1", "beta2", "beta3", "optimizer_eps", "momentum", "nesterov"),
    *("gamma_lr", "beta_lr"),
)
"""The DentSpec fields that have no option of their own and are given with ``--set``."""


def parse_settings(texts: Sequence[str], *, once: bool = False) -> dict[str, Any]:
    """Return the values of each field of :data:`SET_NAMES` given as "NAME=VALUE", in order.

    ``once``: the one value of each, not a list. Raises :class:`~dentbench.errors.SpecError` for
    an unknown name, a value that is no number (for ``nesterov``: neither true nor false), or a
    second value where there is to be one.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if name not in SET_NAMES or not equals:
            own = name in field_names(DentSpec) and name not in SET_NAMES
            raise SpecError(
                f"--set {text!r}: {name} has an option of its own, --{name.replace('_', '-')}"
                if own
                else f"--set {text!r}: write NAME=VALUE, NAME one of {', '.join(SET_NAMES)}"
            )
        found.setdefault(name, []).append(_value_of(name, value))
    twice = [name for name, values in found.items() if len(values) > 1]
    if once and twice:
        raise SpecError(
            f"--set gives {', '.join(twice)} more than once; dentbench ablate takes grids"
        )
    return {name: values[0] for name, values in found.items()} if once else dict(found)


def _value_of(name: str, text: str) -> Any:
    if name == "nesterov":
        if text.lower() not in ("true", "false"):
            raise SpecError(f"--set nesterov={text}: it is true or false")
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"--set {name}={text}: {text!r} is not a number") from None
