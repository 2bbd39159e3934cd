"""Decide checks by the flags of all images, with exact tests at a stated level.

A single image may be chance; a check counts images, and fails where chance rarely makes so many.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Final

from dentbench.attacks import checks
from dentbench.attacks.catalogue import BLACK_BOXES, GRADIENT_FREE, LARGEST_MARGIN
from dentbench.attacks.checks import Check
from dentbench.records.outcome import NATURAL, BatchOutcome
from dentbench.stats import more_often_than, p_text

Stages = Mapping[str, Sequence[BatchOutcome]]
"""The outcomes of every stage, "natural" among them, in the order of the batches."""

LEVEL: Final = 0.05
"""The p-value below which a check fails."""

CHANCE: Final = 0.02
"""The share of images that may differ by chance: by rounding, or as attacks end elsewhere."""

_PUBLISHED: Final = "published"
_TRANSFER: Final = "transfer"
_SQUARE: Final = "square"


def flag_checks(stages: Stages, parts: Collection[str], *, excused: str = "") -> tuple[Check, ...]:
    """Return the checks that outcomes decide.

    ``parts``: those of the published attack. ``excused``: why an attack's own flags need not
    equal the judgement afresh, or "".
    """
    return (
        black_box(stages, parts),
        transfer(stages),
        same_verdict(stages, excused),
        same_answers(stages),
        finite(stages),
    )


def black_box(stages: Stages, parts: Collection[str]) -> Check:
    """Compare images broken by black boxes alone with those broken by gradients.

    An image counts for the black boxes where Square, alone or as a part of AutoAttack, or another
    of the protocols that see no gradient broke it, and nothing that follows a gradient did. It
    fails where these are more than the images that gradients alone break (exact one-sided sign
    test), or more than :data:`CHANCE` of the images right (exact binomial test).
    """
    boxes = {name for name in stages if name in BLACK_BOXES}
    followed = {name for name in stages if name not in (*GRADIENT_FREE, NATURAL)}
    published = _PUBLISHED in stages
    if not (followed - {_PUBLISHED} or (published and set(parts) - {_SQUARE})) or not (
        boxes or (published and _SQUARE in parts)
    ):
        text = "no black box was run beside an attack with gradients"
        return Check(checks.BLACK_BOX, None, None, text)
    by_box: set[int] = set()
    by_gradient: set[int] = set()
    for name in (*boxes, *followed):
        own = parts if name == _PUBLISHED else (name,)
        for row, breaker in _broken(stages[name]):
            if breaker in own:
                box = name in boxes or breaker == _SQUARE
                (by_box if box else by_gradient).add(row)
    alone, others = len(by_box - by_gradient), len(by_gradient - by_box)
    right = sum(_right(stages[NATURAL]))
    p_value = min(
        more_often_than(alone, alone + others, 0.5), more_often_than(alone, right, CHANCE)
    )
    passed = p_value >= LEVEL
    text = f"black boxes, which see no gradient, alone break {alone} of {right} images"
    if not passed:
        text += f" ({p_text(p_value)}): the gradients mislead"
    return Check(checks.BLACK_BOX, passed, alone / right if right else 0.0, text)


def transfer(stages: Stages) -> Check:
    """Compare images broken by the static model's points with those of the direct attack.

    It fails where significantly more images are right under published and wrong under transfer
    than the other way round (exact one-sided sign test). Images that only the points of the largest
    margin break count as right: the static model's own attack was not given these either.
    """
    if not {_PUBLISHED, _TRANSFER} <= set(stages):
        return Check(checks.TRANSFER, None, None, "published and transfer were not both run")
    wrong = {row for row, by in _broken(stages[_TRANSFER]) if by != LARGEST_MARGIN}
    rows = zip(*(_right(stages[stage]) for stage in (NATURAL, _PUBLISHED)), strict=True)
    pairs = [(direct, row not in wrong) for row, (right, direct) in enumerate(rows) if right]
    more, fewer = pairs.count((True, False)), pairs.count((False, True))
    p_value = more_often_than(more, more + fewer, 0.5)
    passed = p_value >= LEVEL
    text = f"the static model's points break {more} of {len(pairs)} images that the direct attack "
    text += f"leaves, and leave {fewer} that it breaks"
    if not passed:
        text += f" ({p_text(p_value)}): the published gradient misleads"
    return Check(checks.TRANSFER, passed, (more - fewer) / max(len(pairs), 1), text)


def same_verdict(stages: Stages, excused: str = "") -> Check:
    """Compare the attacks' own flags with the judgement afresh of the points that they left.

    Both are the same for an answer that depends on the image alone. It fails where, under any
    protocol, they differ on more than :data:`CHANCE` of the images (exact binomial test).
    """
    right = _right(stages[NATURAL])
    odd = {
        name: sum(
            attacked and flag != judged
            for attacked, flag, judged in zip(
                right,
                chain.from_iterable(outcome.attack_correct for outcome in outcomes),
                _right(outcomes),
                strict=True,
            )
        )
        for name, outcomes in stages.items()
        if name not in (NATURAL, _TRANSFER)  # they have no flags of their own
    }
    if not odd:
        return Check(checks.SAME_VERDICT, None, None, "no attack with flags of its own was run")
    worst = max(odd, key=lambda name: odd[name])
    count, total = odd[worst], sum(right)
    text = f"the flags of the attack {worst} differ from the judgement on {count} of {total} images"
    share = count / total if total else 0.0
    if excused:
        return Check(checks.SAME_VERDICT, None, share, f"{text}; {excused}")
    p_value = more_often_than(count, total, CHANCE)
    passed = p_value >= LEVEL
    if not passed:
        text += f" ({p_text(p_value)}): the defense tells the attack from the judge"
    return Check(checks.SAME_VERDICT, passed, share, text)


def same_answers(stages: Stages) -> Check:
    """Compare answers that attacks were given with those to the same questions after them.

    It fails where more than :data:`CHANCE` of them differ (exact binomial test).
    """
    asked = {
        name: (sum(outcome.asked_again or 0 for outcome in stage), _unlike(stage))
        for name, stage in stages.items()
    }
    total, count = (sum(both[place] for both in asked.values()) for place in (0, 1))
    if not total:
        return Check(checks.SAME_ANSWERS, None, None, "no attack's question was asked again")
    text = f"of {total} answers that attacks were given {count} are others when asked for again"
    p_value = more_often_than(count, total, CHANCE)
    passed = p_value >= LEVEL
    if not passed:
        worst = max(asked, key=lambda name: asked[name][1])
        text += f", {asked[worst][1]} of them under {worst} ({p_text(p_value)}): the defense tells "
        text += "an attack from a judge, or remembers"
    return Check(checks.SAME_ANSWERS, passed, count / total, text)


def _unlike(outcomes: Sequence[BatchOutcome]) -> int:
    return sum(outcome.unlike or 0 for outcome in outcomes)


def same_ascent(climbed: Check, stages: Stages, excused: str = "") -> Check:
    """Compare images that the checks' own ascent broke with those that attacks leave right.

    ``climbed``: the check as it was made first, the images broken among its shares. An attack that
    follows the same gradient, and at least as far, leaves hardly any of them. It fails where they
    leave more than :data:`CHANCE` of the images that were broken (exact binomial test).
    """
    followed = {name for name in stages if name not in (*GRADIENT_FREE, NATURAL)}
    if climbed.shares is None or excused or not followed:
        text = excused or "no attack with gradients was run"
        return Check(checks.SAME_ASCENT, None, None, f"{climbed.sentence}; {text}")
    each = [_right(stages[name]) for name in (NATURAL, *followed)]
    right = [all(flags) for flags in zip(*each, strict=True)]
    broken = [row for row in map(int, climbed.shares) if row < len(right)]
    if climbed.shares and not broken:
        text = f"{climbed.sentence}; none of these was attacked"
        return Check(checks.SAME_ASCENT, None, None, text)
    left, total = sum(right[row] for row in broken), len(broken)
    text = f"{climbed.sentence}, of which the attacks with gradients leave {left}"
    p_value = more_often_than(left, total, CHANCE)
    passed = p_value >= LEVEL
    if not passed:
        text += f" ({p_text(p_value)}): attacks were misled where checks were not"
    return Check(checks.SAME_ASCENT, passed, left / max(total, 1), text)


def finite(stages: Stages) -> Check:
    """Count natural images and final points without an answer: NaN, infinite, or an error."""
    odd = {name: sum(sum(outcome.unanswered) for outcome in stages[name]) for name in stages}
    count, total = sum(odd.values()), sum(len(_right(outcomes)) for outcomes in stages.values())
    if not count:
        return Check(checks.FINITE, True, 0.0, "every answer to an image is of finite numbers")
    worst = max(odd, key=lambda name: odd[name])
    text = f"{count} of {total} natural images and final points get NaN or infinite logits, or an "
    text += "error in their place, "
    text += f"{odd[worst]} of them under {worst}: each counts as wrong"
    return Check(checks.FINITE, False, count / total, text)


def _right(outcomes: Sequence[BatchOutcome]) -> list[bool]:
    return [flag for outcome in outcomes for flag in outcome.correct]


def _broken(outcomes: Sequence[BatchOutcome]) -> list[tuple[int, str]]:
    """Return the images that a stage broke, as judged, and the attack that broke each."""
    breakers = chain.from_iterable(outcome.broken_by for outcome in outcomes)
    rows = enumerate(zip(_right(outcomes), breakers, strict=True))
    return [(row, breaker) for row, (right, breaker) in rows if not right]
