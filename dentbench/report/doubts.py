"""Collect the doubts that stand against a verdict, each with its remedy.

A gain is only as good as the attacks that it withstood: an attack or check that is missing,
shortened or failed counts in the defense's favour and is a doubt, whatever else was run. A loss is
only as good as its judge and as the static model's attack. Both, and the lack of both, need a
static model whose own evaluation can be trusted. The rule is ours, after the mistakes that Athalye
et al. 2018, Tramer et al. 2020 and Croce et al. 2022 report of evaluations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Final

from dentbench.attacks import checks as soundness
from dentbench.attacks.checks import Check, failed, unsettled
from dentbench.attacks.evidence import ADAPTIVE, NEEDED
from dentbench.attacks.required_budgets import (
    LEAST_ASCENT,
    ascent_iterations,
    attack_budget,
    shortfalls,
)
from dentbench.records.outcome import Record, eps_of
from dentbench.records.stopping import stopped
from dentbench.report import coupling, departures
from dentbench.report.remedies import AGAIN, ALL, GOING_ON, STANDARD, Doubt, of_check
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import AttackSpec, parse_eps
from dentbench.spec.protocol import ProtocolSpec
from dentbench.stats import least_batches
from dentbench.zoo.images.image_counts import named_images

LEAST_IMAGES: Final = 20
"""The fewest images of a gain: with fewer, checks that count images miss three of them."""

ROUNDED: Final = 0.02
"""The share of images that last bits alone may turn over, which hides no gain of five points."""

_ANSWERS: Final = frozenset(
    {
        *(soundness.REPEATABLE, soundness.STATELESS, soundness.SEPARABLE, soundness.IN_RANGE),
        *(soundness.MODES, soundness.SAME_VERDICT, soundness.SAME_ANSWERS, soundness.FINITE),
        *(soundness.ORDER, soundness.LOST_IMAGES),
        *soundness.INDISPENSABLE,
    }
)
"""The checks that concern a loss: those of the judge's answers, and of the images lost."""


def gain_doubts(defended: Record) -> tuple[Doubt, ...]:
    """Return every doubt about a gain of a defended record, the weightiest first."""
    return (
        *_checks(defended),
        *_planted(defended),
        *_missing(defended),
        *_weak_attack(defended),
        *_weak_protocols(defended),
        *_idle(defended),
        *_baseline(defended),
    )


def loss_doubts(defended: Record) -> tuple[Doubt, ...]:
    """Return every doubt about a loss: about the judge, and about the static model's attack."""
    # Where draws were compared with draws, answers by chance are no reason to doubt a loss.
    names = _ANSWERS - {soundness.REPEATABLE} if defended.chance else _ANSWERS
    return (
        *_checks(defended, names),
        *_weak_attack(defended),
        *_effort(defended),
        *_baseline(defended),
    )


def baseline_doubts(defended: Record) -> tuple[Doubt, ...]:
    """Return the doubts about finding no difference.

    A static model that was attacked wrongly or hardly, a defense that answers otherwise in a new
    process, where what is wrong counts too, and too few batches to find anything.
    """
    lost = (check for check in failed(defended.checks) if check.name == soundness.LOST_IMAGES)
    return (
        *(of_check(check, static=True) for check in failed(defended.static_checks)),
        *map(of_check, (*lost, *_wrong_anew(defended))),
        *_coupled(defended),
        *_hardly_attacked(defended),
    )


def _wrong_anew(record: Record) -> Iterator[Check]:
    """Yield the check of new processes where more images are wrong there alone than by rounding."""
    stages = len(record.protocol_counts) + 1  # with the natural images, of which it is a share
    for check in failed(record.checks):
        if check.name == soundness.FRESH_PROCESS and stages * (check.value or 0.0) > ROUNDED:
            yield check


# --- checks ---------------------------------------------------------------------------------------


def _checks(record: Record, names: Collection[str] = soundness.NAMES) -> Iterator[Doubt]:
    """Yield doubts of failed checks, and of indispensable checks that were not made."""
    if record.checks is None:
        yield Doubt("no checks were made", AGAIN)
        return
    yield from (of_check(check) for check in unsettled(record.checks) if check.name in names)


def _planted(record: Record) -> Iterator[Doubt]:
    """Doubt a gain that rests on no attack which finds planted points."""
    if record.checks is None:
        return
    check = soundness.from_json(record.checks).get(soundness.PLANTED)
    if check is None:
        yield Doubt(f"the check {soundness.PLANTED} was not made", "run it again")
    elif check.passed is None:
        reason = f"the check {check.name} could not be made: {check.sentence}"
        yield Doubt(reason, "run it in Linf or L2, by a protocol that follows a gradient")


def _baseline(record: Record) -> Iterator[Doubt]:
    if record.static_checks is None:
        yield Doubt("the record says nothing of the static model's checks", AGAIN)
        return
    for check in unsettled(record.static_checks, static=True):
        yield of_check(check, static=True)


# --- attacks --------------------------------------------------------------------------------------


def _missing(record: Record) -> Iterator[Doubt]:
    """The protocols that must be withstood: none of them may be left out."""
    run = set(record.protocol_counts)
    early = stopped(record)
    left = () if early is None else early.not_run
    if run <= {departures.published_protocol(record)} and not left:
        text = f"only the {departures.published_protocol_text(record)} was run"
        yield Doubt(text, "run --protocol all", ALL)
        return
    skipped = json.loads(record.skipped or "{}")
    for name in (*NEEDED, *([] if record.separable else ["batch-mates"])):
        if name not in run:
            why = f"cannot be run ({skipped[name]})" if name in skipped else "was not run"
            if early is not None and name in left:
                yield Doubt(f"{name} was not run before the {early.rule}", GOING_ON, ALL)
                continue
            remedy = "run --protocol all in Linf or L2 on declared batches"
            yield Doubt(f"{name} {why}", remedy, () if name in skipped else ALL)
    if not {*run, *left} & {*ADAPTIVE}:
        yield Doubt("no adaptive protocol was run", f"run {', '.join(ADAPTIVE)}", ALL)


@lru_cache(maxsize=1 << 12)  # many records repeat few budgets
def _budgets(text: str | None) -> Mapping[str, Mapping[str, float]]:
    """Return the budget of each protocol, as far as the column has it."""
    budgets = json.loads(text or "{}")
    return {name: budget for name, budget in budgets.items() if isinstance(budget, dict)}


def _lacking(record: Record) -> Mapping[str, str]:
    """Describe, by protocol, by how much its budget is below the required budget."""
    random = any(check.name == soundness.REPEATABLE for check in failed(record.checks))
    return _shortfalls(record.budgets, random)


@lru_cache(maxsize=1 << 12)
def _shortfalls(budgets: str | None, random: bool) -> Mapping[str, str]:
    return shortfalls(_budgets(budgets), random=random)


def _weak_attack(record: Record) -> Iterator[Doubt]:
    if not _budgets(record.budgets):
        yield Doubt("the record does not say the budget of its attacks", AGAIN)
    elif departures.PUBLISHED in _lacking(record):
        attack = " ".join(departures.attack_departures(record)) or record.attack_label
        yield Doubt(f"the attack is {attack}", "run --attack standard", STANDARD)


def _weak_protocols(record: Record) -> Iterator[Doubt]:
    """Protocols with less than their least budget, unless the attack alone is to blame."""
    lacking = {
        protocol: text
        for protocol, text in _lacking(record).items()
        if protocol != departures.PUBLISHED
    }
    changed = ProtocolSpec.from_json(record.protocol_settings or "{}").changed
    chosen = [name for name in changed if name != "cascade"]
    if not lacking or (not chosen and departures.PUBLISHED in _lacking(record)):
        return
    listed = "; ".join(f"{name} ({text})" for name, text in lacking.items())
    remedy = f"run it without --protocol-set {', '.join(chosen)}" if chosen else "run it in full"
    changes = (("--protocol-set",),) if chosen else STANDARD
    yield Doubt(f"less than the least budget was spent on {listed}", remedy, changes)


def _hardly_attacked(record: Record) -> Iterator[Doubt]:
    """Too few ascents on the static model: it could hide a gain in images that would break."""
    if eps_of(record) == 0:
        return
    how = (record.attack, record.norm, record.eps, record.iterations, record.targets)
    if _ascents_faced(record.static_by_protocol, record.budgets, *how) < LEAST_ASCENT:
        yield Doubt(
            f"the static model was attacked by {record.attack_label} alone, which may leave images "
            "right that a longer attack breaks, and so hide a gain",
            "run --attack quick at least",
            (("--attack", "quick"), *STANDARD[1:]),
        )


@lru_cache(maxsize=1 << 12)
def _ascents_faced(
    static_by_protocol: str | None,
    budgets: str | None,
    attack: str,
    norm: str,
    eps: str,
    iterations: int | None,
    targets: int | None,
) -> float:
    """Return the most iterations of ascents that the static model faced, of a record's columns."""
    faced = {departures.PUBLISHED, *json.loads(static_by_protocol or "{}")}
    spent = [budget for name, budget in _budgets(budgets).items() if name in faced]
    if attack in ATTACKS:  # where the defense has not faced it yet
        spec = AttackSpec(
            name=attack, norm=norm, eps=parse_eps(eps), iterations=iterations, targets=targets
        )
        spent.append(attack_budget(spec))
    return max(map(ascent_iterations, spent), default=0)


_SHOWN_BACK: Final = "transfer"
"""The protocol that shows the static model the points that broke the defense."""


def _effort(record: Record) -> Iterator[Doubt]:
    if record.static_correct is None:
        yield Doubt("the static model faced fewer attacks than the defense", AGAIN)
    run = record.protocol_counts.keys()
    more = [name for name in run if name != departures.PUBLISHED]
    if more and _SHOWN_BACK not in run:  # the static model was not shown the defense's points
        text = f"the static model was not shown the points that {', '.join(more)} found"
        yield Doubt(text, f"run {_SHOWN_BACK} too", ALL)


# --- images ---------------------------------------------------------------------------------------


def _idle(record: Record) -> Iterator[Doubt]:
    """Too little was asked of the defense: no room to attack in, or too few images."""
    if eps_of(record) == 0:
        yield Doubt("nothing is attacked at eps 0", "run it with a larger --eps")
    if record.n < LEAST_IMAGES:
        text = f"{record.n} images are too few for the checks that count them"
        yield Doubt(text, "run --examples 100 or more", (("--examples", "100"),))


def images_from_first(record: Record) -> int | None:
    """Return how many images a record's data set has from its first one on; None of users' data."""
    whole = named_images(record.dataset)
    return None if whole is None else whole - record.first


def _coupled(record: Record) -> Iterator[Doubt]:
    """Images that share batches are no independent draws: batches must be there to compare."""
    if coupling.independent(record):
        return
    early = stopped(record)
    if early is not None and early.images < early.of:
        whole = math.ceil(early.of / record.batch_size)
        if whole >= least_batches():  # the rest of the run brings them
            return
    if coupling.missing_batches(record):
        images = record.n if early is None else early.of
        there = images_from_first(record)
        remedy, option = coupling.more_batches(images, record.batch_size, record.batching, there)
        yield Doubt(coupling.text(record), remedy, (option,))
    elif not coupling.has_counts(record):
        yield Doubt(coupling.text(record), AGAIN)
