"""The checks "gained-images" and "lost-images": what is left without images that mislead attacks.

The first is made once a gain is there, on images that the worst case calls right: those that the
static model loses, on which the gain rests, and those that both keep, where a loss may hide. The
second is made once a loss is there, of the static model, on images that it alone keeps.
Where an answer depends on batch mates, the first asks about images in the other batches of
``batch-mates`` too: an ascent there finds nothing either where gradients mislead.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dentbench.attacks import checks
from dentbench.attacks.catalogue import CHECKS_VERSION
from dentbench.attacks.checks import Check
from dentbench.attacks.evidence import NEEDED
from dentbench.attacks.probes.single_images import misled
from dentbench.attacks.protocol_cards import OWN_NORMS
from dentbench.evaluation.checks.other_company import misled_elsewhere
from dentbench.evaluation.checks.sanity_checks import STAGE, probe_of
from dentbench.evaluation.context import RunContext
from dentbench.spec.evaluation import EvalSpec, derive_seed
from dentbench.stats import mcnemar, more_often_than

MOST: Final = 64
"""The most images of either kind that are asked about."""

LEVEL: Final = 0.05
"""The p-value below which a gain is there, and a share of images is no chance."""

ELSEWHERE: Final = 4
"""The most declared batches whose images are asked about in other batches."""

CHANCE: Final = {True: 0.05, False: 0.2}
"""The share of images that an honest defense may seem to mislead about, separable or not."""


def gained_images(
    context: RunContext,
    spec: EvalSpec,
    worst: Sequence[bool],
    static: Mapping[str, Sequence[bool]],
    run: Sequence[str],
) -> Check:
    """Return the check of a gain, made now if no earlier run made it of the same images.

    ``worst``: which images are right in the worst case; ``static``: the static model's, by stage;
    ``run``: the protocols that were run. Where a gain could not hold for want of others it is not
    made, for it may cost more than a short attack.
    """
    if missing := [name for name in NEEDED if name not in run]:
        text = f"not made: no gain holds without {', '.join(missing)}"
        return Check(checks.GAINED_IMAGES, None, None, text)
    gained, kept, lost = _kinds(worst, static)
    if not _significant(len(gained), len(lost)):
        return Check(checks.GAINED_IMAGES, None, None, "there is no gain that rests on images")

    def make() -> Check:
        first, second = _asked(context, spec, spec, (gained, kept))
        return check_of(first, second, len(lost), separable=spec.separable)

    return _noted(context, spec, checks.GAINED_IMAGES, (gained, kept), make)


def lost_images(
    context: RunContext,
    spec: EvalSpec,
    worst: Sequence[bool],
    static: Mapping[str, Sequence[bool]],
) -> Check:
    """Return the check of a loss, as :func:`gained_images`, for which the static model is asked."""
    gained, _, lost = _kinds(worst, static)
    if not _significant(len(lost), len(gained)):
        return Check(checks.LOST_IMAGES, None, None, "there is no loss that rests on images")

    def make() -> Check:
        (asked,) = _asked(context, spec, spec.static, (lost,))
        return check_of_loss(asked, len(gained), separable=spec.static.separable)

    return _noted(context, spec, checks.LOST_IMAGES, (lost,), make)


def _kinds(
    worst: Sequence[bool], static: Mapping[str, Sequence[bool]]
) -> tuple[list[int], list[int], list[int]]:
    """Return which images are gained, kept and lost against the static model."""
    base = [all(flags) for flags in zip(*static.values(), strict=True)]
    pairs = [*enumerate(zip(worst, base, strict=True))]
    kinds = ((True, False), (True, True), (False, True))
    gained, kept, lost = ([row for row, pair in pairs if pair == kind] for kind in kinds)
    return gained, kept, lost


def _noted(
    context: RunContext,
    spec: EvalSpec,
    name: str,
    kinds: Sequence[Sequence[int]],
    make: Callable[[], Check],
) -> Check:
    """Return a check of some kinds of images, from its note beside the outcomes or made now."""
    if spec.attack.norm not in OWN_NORMS or not spec.attack.eps:
        text = f"not made in {spec.attack.norm} with eps {float(spec.attack.eps):g}"
        return Check(name, None, None, text)
    folder, title = context.folder(spec), f"{name}-{CHECKS_VERSION}"
    of = hashlib.sha256(repr(kinds).encode()).hexdigest()
    note: dict[str, str] = folder.load_note(title, {"of": "", "check": ""}) or {}
    if note.get("of") != of:
        check = context.worker.micro_batcher.fit(spec, STAGE, make)
        note = {"of": of, "check": checks.to_json([check])}
        folder.save_note(title, note)
    return checks.from_json(note["check"])[name]


@dataclass(frozen=True)
class Asked:
    """Images of a kind: how many there ``are``, and of those asked about what is wrong, or "".

    ``elsewhere``: the same in other batches, by composition.
    """

    are: int
    faults: Sequence[str]
    elsewhere: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def misled(self, chance: float) -> float:
        """Return of how many of them attacks are misled, where it is more than by ``chance``.

        It is their share in the batches where it is the largest.
        """
        shares = (_share(faults, chance) for faults in (self.faults, *self.elsewhere.values()))
        return self.are * max(shares)


def _share(faults: Sequence[str], chance: float) -> float:
    count, total = sum(map(bool, faults)), len(faults)
    more = bool(total) and more_often_than(count, total, chance) < LEVEL
    return count / total if more else 0.0


def check_of(gained: Asked, kept: Asked, lost: int, *, separable: bool) -> Check:
    """Return the check; ``lost``: the images that the static model alone gets right.

    Images that attacks are misled about are taken to break: of ``gained`` they are no gain, of
    ``kept``, which both models get right, they are a loss. The gain left must be significant.
    """
    chance = CHANCE[separable]
    left = gained.are - math.ceil(gained.misled(chance))
    loss = lost + math.floor(kept.misled(chance))
    of = f"right, {len(gained.faults)} of them of the gain,"
    text, share = _found((*gained.faults, *kept.faults), of)
    for name in gained.elsewhere:
        both = [*gained.elsewhere[name], *kept.elsewhere[name]]
        if count := sum(map(bool, both)):
            text += f", in {name} batches on {count} of {len(both)}"
    passed = _significant(left, loss)
    if not passed:
        text += f": without such images {left} are gained and {loss} lost, which is no gain"
    return Check(checks.GAINED_IMAGES, passed, share, text)


def check_of_loss(lost: Asked, gained: int, *, separable: bool) -> Check:
    """Return the check of a loss; ``gained``: the images that the defense alone gets right.

    Images that attacks on the static model are misled about are taken to break it, so that they are
    no loss.
    """
    left = lost.are - math.ceil(lost.misled(CHANCE[separable]))
    text, share = _found(lost.faults, "lost, which the static model gets right,")
    passed = _significant(left, gained)
    if not passed:
        text += f": without such images {left} are lost and {gained} gained, which is no loss"
    return Check(checks.LOST_IMAGES, passed, share, text)


def _found(faults: Sequence[str], of: str) -> tuple[str, float]:
    """Say about how many images, which are ``of`` a kind, attacks are misled; return the share."""
    wrong = [fault for fault in faults if fault]
    text = f"of {len(faults)} images asked about that count as {of} attacks are misled on "
    text += f"{len(wrong)}"
    if wrong:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(wrong).most_common())
        text += f" ({reasons})"
    return text, len(wrong) / max(len(faults), 1)


def _significant(gained: int, lost: int) -> bool:
    return gained > lost and mcnemar(gained, lost) < LEVEL


def _asked(
    context: RunContext, spec: EvalSpec, of: EvalSpec, kinds: Sequence[Sequence[int]]
) -> list[Asked]:
    """Ask the defense, or the static model, ``of`` a spec about some images of every kind."""
    draw = random.Random(derive_seed(spec.seed, "defense", checks.GAINED_IMAGES))
    asked = {row for rows in kinds for row in draw.sample(rows, min(len(rows), MOST))}
    batches = _batches(of, asked)
    others = () if of.separable else draw.sample(batches, min(len(batches), ELSEWHERE))
    faults: dict[int, str] = {}
    elsewhere: dict[str, dict[int, str]] = {}
    for batch in batches:
        unit, numbers = batch
        places = {number: place for place, number in enumerate(numbers)}
        groups = [[places[row] for row in rows if row in places] for rows in kinds]
        probe, groups = probe_of(context, of, numbers), [rows for rows in groups if rows]
        faults |= zip(numbers, misled(probe, groups), strict=True)
        if batch in others:
            for name, reasons in misled_elsewhere(context, of, unit, probe, groups):
                there = elsewhere.setdefault(name, {})
                there |= {numbers[place]: reason for place, reason in reasons.items()}

    def answered(rows: Sequence[int]) -> Asked:
        # Elsewhere all images of few batches count, not a sample of those of all batches.
        wrong = {
            name: [found[row] for row in rows if row in found] for name, found in elsewhere.items()
        }
        return Asked(len(rows), [faults[row] for row in rows if row in asked], wrong)

    return [answered(rows) for rows in kinds]


def _batches(spec: EvalSpec, asked: set[int]) -> list[tuple[int, list[int]]]:
    """Return which images are shown together: declared batches, where an answer depends on them.

    Each with its number.
    """
    if spec.separable:
        return [(0, sorted(asked))]
    batches = enumerate(spec.batches.ranges(spec.data.count))
    return [(unit, [*rows]) for unit, rows in batches if asked & {*rows}]
