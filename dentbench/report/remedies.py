"""Remedies of doubts: of failed checks in words, and the options that apply them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dentbench.attacks import checks as soundness
from dentbench.attacks.checks import Check


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt a verdict, and its remedy.

    ``changes``: the options that do so, each with its values; none where it is a matter of the
    model or the defense. An option without a value is to be left out.
    """

    reason: str
    remedy: str
    changes: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


_LEFT_ALONE: Final = "keep the defense from changing what the network alone answers"

_REMEDIES: Final = {
    soundness.REPEATABLE: "fix its random numbers for each image and evaluate it again",
    soundness.STATELESS: "evaluate it with no memory of earlier questions",
    soundness.ORDER: "evaluate it with no memory of earlier questions, in files and servers too",
    soundness.GAINED_IMAGES: "find what misleads attacks on these images, and evaluate without it",
    soundness.LOST_IMAGES: "evaluate it around a network that attacks can be trusted on",
    soundness.FRESH_PROCESS: "evaluate it with no memory of earlier questions",
    soundness.SEPARABLE: "declare that it depends on batch mates and run --protocol all",
    soundness.LOGITS: "hand in the logits",
    soundness.FINITE: "return finite numbers, such as logits.nan_to_num(0, 1e4, -1e4)",
    soundness.IN_RANGE: "scale the images to [0, 1]",
    soundness.GRADIENT: "put a differentiable stand-in in the place of the step without a gradient",
    soundness.TRUE_GRADIENT: "let calling it carry the gradient of the answer that is judged",
    soundness.EXACT_GRADIENT: "let calling it differentiate through its adaptation, as its unroll",
    soundness.MODES: "answer alike with and without gradients",
    soundness.SCORES: "hand in logits that fall towards the boundary",
    soundness.PLANTED: "hand in a gradient, an unroll or a stand-in that finds the planted points",
    soundness.MONOTONE: "find where weaker attacks break more, and attack there",
    soundness.CONVERGED: "raise --iterations until the loss stops rising",
    soundness.ASCENT: "find a loss or a stand-in along which it can be attacked",
    soundness.BLACK_BOX: "find the gradient that misleads; run --protocol-set queries=5000",
    soundness.TRANSFER: "find why the static model's points do more than its own gradient",
    soundness.SAME_VERDICT: "find how the defense tells judge from attack; evaluate without that",
    soundness.SAME_ANSWERS: "find what tells the judge from the attack, and evaluate it without",
    soundness.SAME_ASCENT: "find what tells an attack from a check, and evaluate it without",
    soundness.OTHER_BATCHES: "mix the batches, or say for which batches it is meant",
    soundness.NATURAL_ACCURACY: "use the model and the data of the card",
}
"""The remedies of failed checks, by name."""

AGAIN: Final = "run it again"
"""The remedy where a record of an older version lacks a column."""

GOING_ON: Final = "the same command without its limit goes on from there"
"""The remedy where a limit stopped a run."""

ALL: Final = (("--protocol", "all"),)
"""The options that run every protocol."""

STANDARD: Final = (("--attack", "standard"), ("--iterations",), ("--targets",), ("--queries",))
"""The options of AutoAttack standard in full."""

_CHANGES: Final = {
    soundness.SEPARABLE: ALL,
    soundness.BLACK_BOX: (("--protocol-set", "queries=5000"),),
}
"""The options among the remedies of failed checks."""

KEEP_STATISTICS: Final = "use a network that answers each image on its own"
"""The remedy where the static model's answers depend on batch mates."""

_ANEW: Final = "hand in a class or a function that makes it anew"
"""The remedy of a check that needs a defense that was never asked before."""


def of_check(check: Check, *, static: bool = False) -> Doubt:
    """Return the doubt of a failed or missing check; ``static``: the static model's."""
    whose = "the static model's check" if static else "the check"
    if check.passed is None:
        return Doubt(f"{whose} {check.name} could not be made: {check.sentence}", _ANEW)
    if static and check.name == soundness.SEPARABLE:
        return Doubt(f"{whose} {check.name} failed: {check.sentence}", KEEP_STATISTICS)
    if static and check.name == soundness.FRESH_PROCESS:
        return Doubt(f"{whose} {check.name} failed: {check.sentence}", _LEFT_ALONE)
    remedy = _REMEDIES.get(check.name, "mend the fault that it names and evaluate again")
    changes = () if static else _CHANGES.get(check.name, ())
    return Doubt(f"{whose} {check.name} failed: {check.sentence}", remedy, changes)
