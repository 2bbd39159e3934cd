"""Cards of protocols: built-in, a user's, and for points that are handed in. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from dentbench.registry import Registry
from dentbench.spec.evaluation import EvalSpec


@dataclass(frozen=True, kw_only=True)
class ProtocolCard:
    """A way to attack a defense.

    ``function``: ``module:name`` of the function that carries it out (see ``protocols/base.py``).
    ``summary``: a description. ``source``: where it is from. ``version``: the number of its code,
    raised when its answers change; outcomes of another version are computed anew. ``needs_static``:
    whether it uses the static model's adversarial points. ``after``: the stages, in order, that are
    run first in a cascade: it starts from their points and leaves alone the images that they broke.
    ``needs``: the methods that the defense must offer beside logits. ``own_attack``: whether it
    runs our own attack, which knows declared batches and the norms of ``OWN_NORMS`` only.
    ``coupled_only``: why a separable defense has no use for it, or "". ``counterpart``: whether it
    is run on the static model too, with the same ascents and queries, so that both face the same.
    ``follows``: "gradient", of the defense or in its place; "answers", scores or labels alone; or
    "points", of others, which it judges. ``settings``: the fields of the ProtocolSpec, beside
    ``cascade``, that it heeds.
    """

    function: str
    summary: str
    source: str = ""
    version: int = 2
    needs_static: bool = False
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    own_attack: bool = True
    coupled_only: str = ""
    counterpart: bool = False
    follows: Literal["gradient", "answers", "points"] = "gradient"
    settings: tuple[str, ...] = ()

    def reason_to_skip(self, spec: EvalSpec, offers: Collection[str]) -> str:
        """Return why this protocol cannot attack a defense, or "" when it can.

        ``offers``: the names of the methods that the defense has beside logits: "adapt", "predict",
        "unroll", "with_steps" (fewer steps exist), "random" (its answers are), "after" (it goes on
        from batch to batch).
        """
        missing = [name for name in self.needs if name not in offers]
        if missing:
            words = [_IN_WORDS.get(name, name) for name in missing]
            return f"the defense has no {' and no '.join(words)}"
        if self.coupled_only and spec.separable and "random" not in offers:
            return self.coupled_only
        if self.own_attack and spec.attack.norm not in OWN_NORMS:
            return f"our own attack knows {' and '.join(OWN_NORMS)}, not {spec.attack.norm}"
        if self.own_attack and spec.batches.batching != "declared":
            return "it attacks declared batches, not AutoAttack's own packing"
        return ""


_IN_WORDS: Final = {"after": "state that it carries from batch to batch"}
"""Descriptions of a protocol's needs, where the name alone does not say enough."""

OWN_NORMS: Final = ("Linf", "L2")
"""The norms of our own APGD; in L1 it would need sparse steps of its own."""

CLAIMED: Final = "claimed"
"""Points handed in by anyone are a protocol of the name "claimed@HASH", see ``dentbench judge``."""


def is_given(name: str) -> bool:
    """Return whether a protocol is outside the catalogue: a user's, or points handed in."""
    return "@" in name or ":" in name


def claim_name(protocol: str) -> str | None:
    """Return the name of the points handed in that a protocol judges; None for any other."""
    kind, _, name = protocol.partition("@")
    return name if kind == CLAIMED and name else None


class Protocols(Registry[ProtocolCard]):
    """The catalogue; a protocol that is given has a card too, wherever it is asked for."""

    def canonical(self, name: str) -> str:
        """Return the canonical name; that of a protocol that is given is its own."""
        return name if is_given(name) else super().canonical(name)

    def __getitem__(self, name: str) -> ProtocolCard:
        if not is_given(name):
            return super().__getitem__(name)
        text, _, sha256 = name.partition("@")
        if text == CLAIMED:
            summary = f"points claimed by hand, of a file with the SHA-256 {sha256}..."
            return ProtocolCard(
                function="dentbench.attacks.protocols.given:claimed",
                summary=summary,
                own_attack=False,
            )
        return ProtocolCard(
            function=text,
            summary=f"a protocol of the user, its code of the SHA-256 {sha256}...",
            needs_static=True,
            own_attack=False,
        )

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (is_given(name) or super().__contains__(name))
