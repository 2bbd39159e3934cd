"""Decide which attacks a gain must have withstood, and which of them count.

An attack that misses adversarial points which are there by construction would miss others: that
it breaks nothing is no evidence (Zimmermann et al., NeurIPS 2022, arXiv 2206.13991). So a protocol
that follows a gradient is counted on only where it finds planted points. Protocols that ask for
answers alone are run to contradict gradients, and no gain rests on them. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NEEDED: Final = ("published", "transfer", "warm", "scores", "decision")
"""The protocols that must have been withstood, whatever the defense."""

ADAPTIVE: Final = ("bpda", "fpa", "gmsa-avg", "gmsa-min", "unrolled")
"""Protocols made against a defense that adapts; a gain must have withstood at least one."""

IN_PARTS: Final = ("fpa", "gmsa-avg", "gmsa-min", "unrolled")
"""Those of them that need the parts of a defense, and so see its adaptation."""

OWN_GRADIENT: Final = ("published", "warm", "unrolled")
"""Protocols that follow the gradient of the defense itself."""

SUPPORTING: Final = (*OWN_GRADIENT, *ADAPTIVE)
"""The protocols that a gain can rest on. Where none was run, no points are planted."""

TESTED: Final = ("published", "transfer", "surrogate", "warm", *ADAPTIVE)
"""The protocols that are run on planted points."""

LEAST_SHARE: Final = 0.75
"""The least share of planted points that a protocol must find to be counted on."""


def counted_on(shares: Mapping[str, float]) -> tuple[str, ...]:
    """Return the protocols that find planted points; ``shares``: of these points, by protocol."""
    return tuple(name for name, share in shares.items() if share >= LEAST_SHARE)


def not_counted_on(shares: Mapping[str, float]) -> tuple[str, ...]:
    """Return the protocols that miss too many planted points."""
    return tuple(name for name, share in shares.items() if share < LEAST_SHARE)


def lacking(shares: Mapping[str, float], *, in_parts: bool) -> tuple[str, ...]:
    """Return, in words, which kinds of protocols have none that finds planted points.

    A gain must rest on a protocol that follows the defense's own gradient and, where the defense is
    handed in as ``in_parts``, on a protocol made against its adaptation: the published gradient
    takes that for a constant. A defense in one piece has the gradient of the whole, or fails the
    first. A kind of which no protocol was run is left out; another doubt names it.
    """
    kinds: list[tuple[str, tuple[str, ...]]] = [
        ("follows the defense's own gradient", OWN_GRADIENT)
    ]
    if in_parts:
        kinds.append(("is made against its adaptation", ADAPTIVE))
    reasons = []
    for ability, names in kinds:
        run = [name for name in names if name in shares]
        if run and not set(run) & set(counted_on(shares)):
            reasons.append(f"no protocol that {ability} ({', '.join(run)})")
    return tuple(reasons)
