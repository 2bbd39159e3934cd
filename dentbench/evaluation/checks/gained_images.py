"""The check "gained-images": a gain must be left without the images that attacks are misled about.

It is made once a gain is there, on images that the worst case calls right: those that the static
model loses, on which the gain rests, and those that both keep, where a loss may hide.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dentbench.attacks import checks
from dentbench.attacks.catalogue import CHECKS_VERSION
from dentbench.attacks.checks import Check
from dentbench.attacks.probes.single_images import misled
from dentbench.attacks.protocol_cards import OWN_NORMS
from dentbench.evaluation.checks.sanity_checks import STAGE, probe_of
from dentbench.evaluation.context import RunContext
from dentbench.spec.evaluation import EvalSpec, derive_seed
from dentbench.stats import mcnemar, more_often_than

NOTE: Final = f"{checks.GAINED_IMAGES}-{CHECKS_VERSION}"
"""The name of the note that keeps the check beside the outcomes."""

MOST: Final = 64
"""The most images of either kind that are asked about."""

LEVEL: Final = 0.05
"""The p-value below which a gain is there, and a share of images is no chance."""

CHANCE: Final = {True: 0.05, False: 0.2}
"""The share of images that an honest defense may seem to mislead about, separable or not."""


def gained_images(
    context: RunContext,
    spec: EvalSpec,
    worst: Sequence[bool],
    static: Mapping[str, Sequence[bool]],
) -> Check:
    """Return the check, made now if no earlier run made it of the same images.

    ``worst``: which images are right in the worst case; ``static``: the static model's, by stage.
    """
    base = [all(flags) for flags in zip(*static.values(), strict=True)]
    rows = [row for row, right in enumerate(worst) if right]
    gained = [row for row in rows if not base[row]]
    kept = [row for row in rows if base[row]]
    lost = sum(base) - len(kept)
    if not _significant(len(gained), lost):
        return Check(checks.GAINED_IMAGES, None, None, "there is no gain that rests on images")
    if spec.attack.norm not in OWN_NORMS or not spec.attack.eps:
        text = f"not made in {spec.attack.norm} with eps {float(spec.attack.eps):g}"
        return Check(checks.GAINED_IMAGES, None, None, text)
    folder, of = context.folder(spec), hashlib.sha256(repr((gained, kept)).encode()).hexdigest()
    note: dict[str, str] = folder.load_note(NOTE, {"of": "", "check": ""}) or {}
    if note.get("of") != of:
        made = context.worker.micro_batcher.fit(
            spec, STAGE, lambda: _asked(context, spec, gained, kept)
        )
        check = check_of(*made, lost, separable=spec.separable)
        note = {"of": of, "check": checks.to_json([check])}
        folder.save_note(NOTE, note)
    return checks.from_json(note["check"])[checks.GAINED_IMAGES]


@dataclass(frozen=True)
class Asked:
    """Images of a kind: how many there ``are``, and of those asked about what is wrong, or ""."""

    are: int
    faults: Sequence[str]

    def misled(self, chance: float) -> float:
        """Return of how many of them attacks are misled, where it is more than by ``chance``."""
        total = len(self.faults)
        count = sum(map(bool, self.faults))
        if not total or more_often_than(count, total, chance) >= LEVEL:
            return 0.0
        return self.are * count / total


def check_of(gained: Asked, kept: Asked, lost: int, *, separable: bool) -> Check:
    """Return the check; ``lost``: the images that the static model alone gets right.

    Images that attacks are misled about are taken to break: of ``gained`` they are no gain, of
    ``kept``, which both models get right, they are a loss. The gain left must be significant.
    """
    chance = CHANCE[separable]
    left = gained.are - math.ceil(gained.misled(chance))
    loss = lost + math.floor(kept.misled(chance))
    faults = [fault for fault in (*gained.faults, *kept.faults) if fault]
    asked = len(gained.faults) + len(kept.faults)
    text = f"of {asked} images asked about that count as right, {len(gained.faults)} of them of "
    text += f"the gain, attacks are misled on {len(faults)}"
    if faults:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(faults).most_common())
        text += f" ({reasons})"
    passed = _significant(left, loss)
    if not passed:
        text += f": without such images {left} are gained and {loss} lost, which is no gain"
    return Check(checks.GAINED_IMAGES, passed, len(faults) / max(asked, 1), text)


def _significant(gained: int, lost: int) -> bool:
    return gained > lost and mcnemar(gained, lost) < LEVEL


def _asked(
    context: RunContext, spec: EvalSpec, gained: Sequence[int], kept: Sequence[int]
) -> tuple[Asked, Asked]:
    """Ask about some images of either kind."""
    draw = random.Random(derive_seed(spec.seed, "defense", checks.GAINED_IMAGES))
    asked = {row for rows in (gained, kept) for row in draw.sample(rows, min(len(rows), MOST))}
    faults: dict[int, str] = {}
    for numbers in _batches(spec, asked):
        places = {number: place for place, number in enumerate(numbers)}
        groups = [[places[row] for row in rows if row in places] for rows in (gained, kept)]
        reasons = misled(probe_of(context, spec, numbers), [rows for rows in groups if rows])
        faults |= zip(numbers, reasons, strict=True)
    first, second = (
        Asked(len(rows), [faults[row] for row in rows if row in asked]) for rows in (gained, kept)
    )
    return first, second


def _batches(spec: EvalSpec, asked: set[int]) -> Iterator[list[int]]:
    """Yield which images are shown together: declared batches, where an answer depends on them."""
    if spec.separable:
        yield sorted(asked)
        return
    for rows in spec.batches.ranges(spec.data.count):
        if asked & {*rows}:
            yield [*rows]
