"""The checks of a run: made once, kept beside its outcomes, and put into its record.

Checks that ask the defense come before it is shown anything else, and ask a copy where it can be
copied. Their passes are counted in a check of their own, not in the record's.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks import checks as soundness
from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.budget import iterations_of
from dentbench.attacks.catalogue import CHECKS_VERSION
from dentbench.attacks.checks import Check
from dentbench.attacks.chunked import Chunked
from dentbench.attacks.probes import climbing
from dentbench.attacks.probes.base import FiniteDefense, Probe, drawn
from dentbench.attacks.probes.order import order
from dentbench.attacks.probes.suite import probe
from dentbench.attacks.required_budgets import ascent_iterations, attack_budget
from dentbench.attacks.rng import SeededDefense
from dentbench.defenses.catalogue import DEFENSES
from dentbench.defenses.checked import Own
from dentbench.errors import ModelError
from dentbench.evaluation.checks.flag_checks import Stages, flag_checks, same_ascent
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.input_checks import natural_accuracy as plausibility
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import NATURAL
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import DefenseSpec, EvalSpec, derive_seed
from dentbench.stats import mcnemar, percent_text, wilson

STAGE: Final = "checks"
"""The name of the stage that makes the checks which ask the defense."""

NOTE: Final = f"{STAGE}-{CHECKS_VERSION}"
"""The name of the note, beside the outcomes, that keeps the checks of their present code."""

CAUSES: Final = "natural-causes-1"
"""The name of the note on the usual mistake that explains natural accuracy."""

POINT = 0.01
"""How far, beyond its interval, natural accuracy may be from the card's."""

_log = logging.getLogger(__name__)


def probed(context: RunContext, spec: EvalSpec) -> tuple[Check, ...]:
    """Return the checks that ask the defense, made now if no earlier run left them."""
    folder = context.folder(spec)
    note: str | None = folder.load_note(NOTE, "")
    if note is None:
        counter = context.worker.counter
        before = counter.forwards, counter.backwards
        checks = context.worker.micro_batcher.fit(
            spec, STAGE, lambda: probe(probe_of(context, spec))
        )
        forwards, backwards = counter.forwards - before[0], counter.backwards - before[1]
        text = f"the checks took {forwards} forward and {backwards} backward passes of one image"
        cost = Check(soundness.PASSES, None, float(forwards + backwards), text)
        note = soundness.to_json((*checks, cost))
        folder.save_note(NOTE, note)
    return tuple(soundness.from_json(note).values())


def found_random(folder: RunFolder) -> bool:
    """Return whether a check showed that a defense answers the same question in two ways.

    ``folder``: of the defense's spec.
    """
    text: str | None = folder.load_note(NOTE, "")
    return any(check.name == soundness.REPEATABLE for check in soundness.failed(text))


def is_expected_random(folder: RunFolder, spec: EvalSpec) -> bool:
    """Return :func:`found_random`, or before any check what a built-in defense's card says."""
    defense = spec.defense
    if not isinstance(defense, DefenseSpec) or folder.load_note(NOTE, "") is not None:
        return defense is not None and found_random(folder)
    known = not defense.sha256 and defense.name in DEFENSES
    return defense.random or (known and DEFENSES[defense.name].chance)


def is_declared_random(spec: EvalSpec) -> bool:
    """Return whether a spec's defense is declared to draw its answers by chance."""
    return getattr(spec.defense, "random", False) is True


def in_batches(context: RunContext, spec: EvalSpec, classify: Classifier) -> Classifier:
    """Return a classifier that answers images in batches of the declared size."""
    return Chunked(classify, spec.batches.size, context.worker.counter)


def probe_of(context: RunContext, spec: EvalSpec, numbers: Sequence[int] | None = None) -> Probe:
    """Return the probe of a spec: its defense, and images shown in batches of the declared size.

    ``numbers``: those of the images; by default they are drawn from all.
    """
    worker, seed = context.worker, derive_seed(spec.seed, "defense", "checks")
    if numbers is None:
        numbers = drawn(len(context.inputs.images), spec.batches.size, seed)
    several = len(numbers) > spec.batches.size

    def shown(classify: Classifier) -> Classifier:
        return in_batches(context, spec, classify) if several else classify

    def make(after: FiniteDefense | None = None) -> Classifier:
        new = _anew(context, spec)
        defense = worker.classifier(spec) if new is None else worker.shown(spec, new)
        fresh = SeededDefense(shown(defense), seed, worker.device)
        if after is not None:
            fresh.draw_as(after.defense)
        return FiniteDefense(fresh)

    return Probe(
        make=make,
        copies=_anew(context, spec) is not None,
        images=context.inputs.images[[*numbers]].to(worker.device),
        labels=context.inputs.labels[[*numbers]].to(worker.device),
        numbers=numbers,
        threat=ThreatModel.of(spec.attack),
        separable=spec.separable,
        random=is_declared_random(spec),
        steps=getattr(spec.defense, "steps", None),
        seed=seed,
        iterations=iterations_of(spec),
        network=None if spec.defense is None else shown(worker.shown(spec, worker.network)),
    )


def ordered(context: RunContext, spec: EvalSpec, protocols: Sequence[str]) -> Check:
    """Return the check "order", made anew where it was not made after all of ``protocols``.

    Its questions were asked first of all, see :func:`probed`.
    """
    folder, name = context.folder(spec), f"{soundness.ORDER}-{CHECKS_VERSION}"
    note: dict[str, str] = folder.load_note(name, {"after": "", "check": ""}) or {}
    after = " ".join(protocols)
    if note.get("after") != after:
        made = context.worker.micro_batcher.fit(spec, STAGE, lambda: order(probe_of(context, spec)))
        note = {"after": after, "check": soundness.to_json([made])}
        folder.save_note(name, note)
    return soundness.from_json(note["check"])[soundness.ORDER]


def _anew(context: RunContext, spec: EvalSpec) -> Classifier | None:
    """Return the defense as it is before it is asked anything; None where it cannot be made."""
    try:
        if spec.defense is None:
            return copy.deepcopy(context.worker.network)
        made: Classifier = context.worker.model.defense_cache.make(spec)
        return None if isinstance(made, Own) and made.is_shared else made
    except Exception as error:  # a model may raise anything
        _log.debug("the defense cannot be had anew: %s", error)
        return None


def natural_accuracy(
    correct: int, n: int, published: float | None, source: str = "published"
) -> Check:
    """Compare natural accuracy with the published accuracy on this data set, in percent.

    It fails when the published accuracy is more than a point outside the 95% Wilson interval of
    ``correct`` in ``n``. ``source``: another name for it, such as "expected".
    """
    share = correct / n if n else None
    name = soundness.NATURAL_ACCURACY
    if published is None:
        return Check(name, None, share, "no accuracy was published of this model on this data set")
    low, high = (100 * end for end in wilson(correct, n))
    passed = low - 100 * POINT <= published <= high + 100 * POINT
    text = f"natural accuracy is {percent_text(correct, n)} ({low:.1f}-{high:.1f}), and "
    text += f"{published:g}% was {source}"
    return Check(name, passed, share, text if passed else f"{text}: this is another model or data")


def other_batches(batch_mates: str | None, n: int) -> Check:
    """Compare natural accuracy in other batches of full size with that in declared batches.

    ``batch_mates``: the column; ``n``: images judged. It fails where significantly more images
    are lost than won, unperturbed, in a composition (exact McNemar test, level 0.05). An image
    alone is recorded but not compared: statistics of a single image mean little.
    """
    name = soundness.OTHER_BATCHES
    if batch_mates is None:
        return Check(name, None, None, "batch-mates was not run")
    compositions = json.loads(batch_mates)["compositions"]
    declared = compositions.pop("declared")["natural"]
    compositions.pop("alone", None)
    worst = min(compositions, key=lambda composition: compositions[composition]["natural"])
    natural, lost = compositions[worst]["natural"], compositions[worst]["lost"]
    won = natural - (declared - lost)
    passed = lost <= won or mcnemar(won, lost) >= 0.05
    share = (declared - natural) / max(n, 1)
    text = f"of {n} images {natural} are right unperturbed in {worst} batches, {declared} in the "
    text += "declared batches"
    return Check(name, passed, share, text if passed else f"{text}: it holds in those alone")


def plausible(
    context: RunContext, spec: EvalSpec, check: Check, correct: int, n: int
) -> tuple[Check, bool]:
    """Return the check of natural accuracy with its explanation, and whether it stops the run.

    ``correct`` of ``n`` natural images are right. The check fails at the accuracy of guessing, and
    where mending a usual mistake raises the accuracy (searched once, and kept beside the outcomes).
    The run stops, however few images there are, at the accuracy of guessing, at another accuracy
    than published or expected, and at a mistake that clearly explains an accuracy like that of
    guessing.
    """
    share, allows = correct / max(n, 1), plausibility.allowed(spec.data.name)
    chance = plausibility.is_chance(correct, n, context.worker.classes)
    remedy = None
    if check.passed is False or share < plausibility.GOOD * (allows or 1):
        remedy = _remedy(context, spec)
    text = check.sentence if check.passed is False or not (chance or remedy) else _share(correct, n)
    if chance:
        text += f", no better than chance among {context.worker.classes} classes"
    if remedy is not None:
        text += f"; {remedy.sentence}"
    elif allows and share < plausibility.FAR * allows:
        text += f", far below the {100 * allows:g}% that is published of this data; "
        text += plausibility.USUAL
    elif chance or check.passed is False:
        text += f"; {plausibility.USUAL}"
    passed = False if chance or remedy is not None else check.passed
    explained = remedy is not None and remedy.is_clear and share * context.worker.classes <= 1
    stops = chance or explained or check.passed is False
    return replace(check, passed=passed, sentence=text), stops


def _share(correct: int, n: int) -> str:
    return f"natural accuracy is {percent_text(correct, n)} ({correct} of {n})"


def _remedy(context: RunContext, spec: EvalSpec) -> plausibility.Remedy | None:
    folder, worker = context.folder(spec.static), context.worker
    note = folder.load_note(CAUSES, plausibility.to_note(None))
    if note is None:
        inputs, static = context.inputs, spec.static

        def in_batches(x: Tensor) -> Tensor:
            classify = worker.shown(static, worker.network)
            return torch.cat([classify(batch) for batch in x.split(static.batches.size)])

        def look() -> plausibility.Remedy | None:
            images, labels = inputs.images, inputs.labels
            return plausibility.remedy(in_batches, images, labels, worker.device)

        with worker.counter.uncounted():
            remedy = worker.micro_batcher.fit(static, NATURAL, look)
        note = plausibility.to_note(remedy)
        folder.save_note(CAUSES, note)
    return plausibility.from_note(note)


def require_natural(check: Check, *, force: bool) -> None:
    """Raise :class:`~dentbench.errors.ModelError` when natural accuracy is off, unless forced."""
    if check.passed is False and not force:
        raise ModelError(f"{check.sentence}; {plausibility.GO_ON}")


def column(
    checks: Sequence[Check], stages: Stages, batch_mates: str | None, spec: EvalSpec, natural: Check
) -> str:
    """Return the column ``checks`` of a record: those made before, and those of its outcomes."""
    random = any(check.name == soundness.REPEATABLE and check.passed is False for check in checks)
    excused = _excused(spec, random=random)
    checks = [
        same_ascent(check, stages, _excused_ascent(spec, checks, random=random))
        if check.name == soundness.SAME_ASCENT
        else check
        for check in checks
    ]
    counted = flag_checks(stages, ATTACKS[spec.attack.name].parts, excused=excused)
    judged = sum(len(outcome.correct) for outcome in stages[NATURAL])
    others = other_batches(batch_mates, judged)
    return soundness.to_json((*checks, *counted, others, natural))


def static_column(checks: str) -> str:
    """Return the column ``static_checks`` from the static model's own column ``checks``.

    It keeps the baseline's checks that a verdict needs: those that failed or are indispensable.
    """
    own = soundness.from_json(checks).values()
    return soundness.to_json(
        check for check in own if check.passed is False or check.name in soundness.INDISPENSABLE
    )


def _excused_ascent(spec: EvalSpec, checks: Sequence[Check], *, random: bool) -> str:
    """Return why attacks need not break the images that the checks' ascent broke, or ""."""
    if random:
        return "its answers are random"
    steps = ascent_iterations(attack_budget(spec.attack))
    if not steps:
        return "the attack is a user's, of unknown effort, or follows no gradient"
    if steps < climbing.STEPS:
        return f"the attack makes {steps:g} steps along the gradient"
    if ATTACKS[spec.attack.name].parts == ("apgd-ce",):
        return "the attack raises the cross-entropy alone, which may stop short of the margin"
    moved = {check.name: check.value for check in checks}.get(soundness.SEPARABLE)
    apart = spec.separable or (moved is not None and moved <= soundness.SAME)
    return "" if apart else "an answer depends on batch mates, which were others"


def _excused(spec: EvalSpec, *, random: bool) -> str:
    """Return why an attack's own flags need not equal the judgement afresh, or ""."""
    if random:
        return "its answers are random"
    if not spec.separable:
        return "an answer depends on batch mates, whose points move too"
    return "" if spec.precision == "fp32" else f"it was attacked in {spec.precision}"
