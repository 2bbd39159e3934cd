"""Order protocols within a round, those that break most per pass first. Torch-free.

Measured by ``python -m tests.benchmarks stage-order``, which writes
``results/benchmarks/stage-order-cpu.json``: the images that each protocol breaks of those right
unattacked, over its forward and backward passes, of both modes of dent. A test keeps
:data:`MEASURED` equal to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.protocol_cards import is_given

MEASURED: Final = (
    "transfer",
    "few-steps",
    "surrogate-process",
    "bpda",
    "trajectory",
    "fpa",
    "gmsa-avg",
    "gmsa-min",
    "eot",
    "warm",
    "surrogate",
    "batch-mates",
    "decision",
    "scores",
    "unrolled",
    "published",
)
"""Protocols in order of images broken per pass, the best first."""

LAST: Final = "published"
"""The protocol that always comes last: it costs as much as all others together."""


def cheap_first(names: Sequence[str]) -> list[str]:
    """Return protocols in the order in which a round runs them.

    Each comes after those whose points it starts from; protocols never measured come before
    "published", and users' own protocols first of all.
    """
    rank = {name: number for number, name in enumerate(MEASURED)}
    rank[LAST] = len(rank) + len(PROTOCOLS)
    waiting = sorted(
        names, key=lambda protocol: -1 if is_given(protocol) else rank.get(protocol, len(rank))
    )
    ordered: list[str] = []
    while waiting:
        able = next(
            name for name in waiting if not set(PROTOCOLS[name].after) & {*waiting} - {name}
        )
        waiting.remove(able)
        ordered.append(able)
    return ordered
