"""Why a gain over the static model does not yet mean that a defense holds, and what would decide.

A gain is only as good as the attacks that it withstood; what is missing or failed counts in the
defense's favour and is therefore a doubt. "No gain" needs no such care: more attacks cannot bring
a gain back. The rule is ours; it follows what Athalye et al. 2018, Tramer et al. 2020 and Croce et
al. 2022 found to mislead evaluations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dentbench.attacks import checks as soundness
from dentbench.attacks.checks import Check, from_json
from dentbench.records.outcome import Record
from dentbench.report import departures

ADAPTIVE: Final = frozenset({"unrolled", "gmsa-avg", "gmsa-min", "fpa", "bpda"})
"""Protocols made against a defense that adapts; one of them must have been withstood."""


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt a gain, and what would decide."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


def doubts(defended: Record) -> tuple[Doubt, ...]:
    """Return every doubt about a gain of a defended record, the weightiest first."""
    checks = from_json(defended.checks)
    return (
        *_failed(defended, checks),
        *_missing(defended),
        *_weak(defended),
        *([] if checks else [Doubt("no checks were made", "run it again")]),
    )


def _run(record: Record) -> set[str]:
    return set(record.protocol_counts)


def _missing(record: Record) -> Iterator[Doubt]:
    """The protocols that must be withstood: none of them may be left out."""
    run = _run(record)
    if run <= {departures.PUBLISHED}:
        yield Doubt("only the published protocol was run", "run --protocol all")
        return
    skipped = set(json.loads(record.skipped or "{}"))
    needed = ["transfer", "warm", "scores", "decision"]
    if not record.separable:
        needed.append("batch-mates")
    for name in needed:
        if name not in run:
            why = "cannot be run" if name in skipped else "was not run"
            yield Doubt(f"{name} {why}", "run --protocol all in Linf or L2 on declared batches")
    if not run & ADAPTIVE:
        yield Doubt("no adaptive protocol was run", f"run {', '.join(sorted(ADAPTIVE))}")


def _weak(record: Record) -> Iterator[Doubt]:
    if record.attack != departures.ATTACK or departures.shortened(record):
        (what,) = departures.attack_departures(record)
        yield Doubt(f"the attack is {what}", "run --attack standard")


_ALWAYS: Final = {
    soundness.STATELESS: "evaluate it with no memory of earlier questions",
    soundness.SEPARABLE: "declare that it depends on batch mates and run --protocol all",
    soundness.LOGITS: "hand in the logits",
    soundness.IN_RANGE: "scale the images to [0, 1]",
    soundness.BLACK_BOX: "find the gradient that misleads; raise the queries (scores, decision)",
    soundness.OTHER_BATCHES: "mix the batches, or say for which batches it is meant",
    soundness.NATURAL_ACCURACY: "use the model and the data of the card",
}
"""The checks whose failure no protocol makes up for, and what would."""

_UNLESS: Final[dict[str, tuple[Callable[[set[str]], bool], str]]] = {
    soundness.REPEATABLE: (lambda run: "eot" in run, "run eot"),
    soundness.GRADIENT: (
        lambda run: {"scores", "decision"} <= run and bool(run & {"bpda", "surrogate"}),
        "run scores, decision and bpda",
    ),
    soundness.TRUE_GRADIENT: (lambda run: bool(run & {"unrolled", "scores"}), "run scores"),
    soundness.EXACT_GRADIENT: (lambda run: "unrolled" in run, "run unrolled"),
    soundness.ASCENT: (lambda run: "scores" in run, "run scores"),
    soundness.TRANSFER: (lambda run: "warm" in run, "run warm, which starts at those points"),
}
"""The checks whose failure is made up for by other protocols, and by which."""


def _failed(record: Record, checks: dict[str, Check]) -> Iterator[Doubt]:
    run = _run(record)
    for name, check in checks.items():
        if check.passed is not False:
            continue
        if name in _ALWAYS:
            yield Doubt(f"the check {name} failed: {check.sentence}", _ALWAYS[name])
        elif name in _UNLESS and not _UNLESS[name][0](run):
            yield Doubt(f"the check {name} failed: {check.sentence}", _UNLESS[name][1])
