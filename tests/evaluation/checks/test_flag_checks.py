"""The checks that the flags of all images decide, at and beyond the stated level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dentbench.attacks.catalogue import BLACK_BOXES
from dentbench.attacks.checks import SAME_ASCENT, Check
from dentbench.attacks.probes import climbing
from dentbench.evaluation.checks import sanity_checks
from dentbench.evaluation.checks.flag_checks import (
    Stages,
    black_box,
    finite,
    same_answers,
    same_ascent,
    same_verdict,
    transfer,
)
from dentbench.records.outcome import NATURAL, BatchOutcome
from dentbench.spec.evaluation import AttackSpec
from tests.helpers import spec_of

N = 96
FULL = ("apgd-ce", "apgd-t", "fab-t", "square")
GRADIENT = ("apgd-ce",)


def outcome(
    stage: str, broken: dict[int, str], *, flags: Sequence[bool] | None = None, n: int = N
) -> list[BatchOutcome]:
    """The outcome of a stage in two batches; ``broken``: what broke each image, by its number."""
    correct = [row not in broken for row in range(n)]
    claimed = correct if flags is None else flags
    return [
        BatchOutcome(
            stage=stage,
            index=number,
            correct=tuple(correct[rows]),
            attack_correct=tuple(claimed[rows]),
            broken_by=tuple(broken.get(row, "") for row in range(n)[rows]),
            forwards=0,
            backwards=0,
            seconds=0.0,
        )
        for number, rows in enumerate((slice(0, n // 2), slice(n // 2, n)))
    ]


def stages(images: int = N, **broken: dict[int, str]) -> Stages:
    names: dict[str, dict[int, str]] = {NATURAL: {}, **broken}
    return {name: outcome(name, rows, n=images) for name, rows in names.items()}


def by(name: str, start: int, count: int) -> dict[int, str]:
    return dict.fromkeys(range(start, start + count), name)


@pytest.mark.parametrize(
    ("count", "passed"), [(0, True), (1, True), (2, True), (4, True), (5, False), (60, False)]
)
def test_a_black_box_that_breaks_few_more_is_chance(count: int, passed: bool) -> None:
    """P(X >= 4) = .12 and P(X >= 5) = .044 for 96 images at 2%."""
    actual = {**by("apgd-ce", 0, 30), **by("square", 40, min(count, N - 40))}
    check = black_box(stages(published=actual), FULL)
    assert check.passed is passed, check
    assert check.value == pytest.approx(count / N, abs=0.05)


@pytest.mark.parametrize("box", BLACK_BOXES)
def test_what_another_attack_with_gradients_breaks_too_is_not_the_black_box_alone(box: str) -> None:
    alone = {**stages(published=by("apgd-ce", 0, 5)), box: outcome(box, by(box, 10, 20))}
    assert black_box(alone, GRADIENT).passed is False
    both = {**alone, "unrolled": outcome("unrolled", by("unrolled", 8, 30))}
    assert black_box(both, GRADIENT).passed is True


def test_few_breaks_are_many_where_gradients_break_none() -> None:
    """5 of 1,000 are within 2%, but 5 to 0 is beyond chance (p = .031), 4 to 0 is not."""
    for count, passed in ((4, True), (5, False)):
        actual = stages(images=1000, published={}, scores=by("scores", 0, count))
        assert black_box(actual, GRADIENT).passed is passed


def test_an_image_that_was_broken_before_is_not_the_black_boxes() -> None:
    """In a cascade what transfer broke is not attacked again."""
    moved = by("transfer", 0, 40)
    actual = stages(published=by("apgd-ce", 0, 3), transfer=moved, scores=moved)
    check = black_box(actual, GRADIENT)
    assert check.passed is True and check.value == 0


def test_without_both_kinds_there_is_nothing_to_compare() -> None:
    for actual, parts in (
        (stages(published={}), GRADIENT),
        (stages(published={}), ("square",)),
        (stages(scores={}), ("square",)),
        (stages(scores={}, transfer={}), ()),
    ):
        assert black_box(actual, parts).passed is None


@pytest.mark.parametrize(
    ("moved", "direct", "passed"),
    [(0, 0, True), (1, 0, True), (4, 0, True), (5, 0, False), (30, 10, False), (12, 10, True)],
)
def test_transferred_points_against_the_direct_attack(
    moved: int, direct: int, passed: bool
) -> None:
    """P(5 of 5) = .031; 12 to 10 is even."""
    actual = stages(published=by("apgd-ce", 0, direct), transfer=by("transfer", 40, moved))
    check = transfer(actual)
    assert check.passed is passed and check.value == pytest.approx((moved - direct) / N)
    assert transfer(stages(published={})).passed is None


def test_points_of_the_largest_margin_say_nothing_of_the_direct_attack() -> None:
    """They are a stronger attack than its own, on the static model too."""
    largest = by("largest-margin", 40, 12)
    for direct in ({}, by("apgd-ce", 40, 12)):
        check = transfer(stages(published=direct, transfer=largest))
        assert check.passed is True and check.value == pytest.approx(-len(direct) / N)
    assert transfer(stages(published={}, transfer=largest | by("transfer", 0, 5))).passed is False


@pytest.mark.parametrize(("odd", "passed"), [(0, True), (4, True), (5, False), (68, False)])
def test_own_flags_against_the_judge(odd: int, passed: bool) -> None:
    """The attack says that it broke so many images that the judge finds right."""
    claimed = [row >= odd for row in range(N)]
    actual = {**stages(), "published": outcome("published", {}, flags=claimed)}
    check = same_verdict(actual)
    assert check.passed is passed and check.value == pytest.approx(odd / N)
    assert same_verdict(actual, "its answers are random").passed is None


def test_the_worst_of_all_protocols_is_compared_and_natural_errors_are_not() -> None:
    claimed = [row >= 20 for row in range(N)]
    actual = {**stages(published={}), "warm": outcome("warm", {}, flags=claimed)}
    assert same_verdict(actual).passed is False and "warm" in same_verdict(actual).sentence
    wrong = {**actual, NATURAL: outcome(NATURAL, by("natural", 0, 20))}
    assert same_verdict(wrong).passed is True
    assert same_verdict(stages(transfer={})).passed is None


def test_answers_that_are_no_numbers_are_counted_and_named() -> None:
    actual = stages(published={}, transfer={})
    assert finite(actual).passed
    first, second = actual["transfer"]
    some = replace(second, unanswered=(True, True) + (False,) * (N // 2 - 2))
    check = finite({**actual, "transfer": [first, some]})
    assert check.passed is False and check.value == 2 / (3 * N)
    assert f"2 of {3 * N}" in check.sentence and "2 of them under transfer" in check.sentence


@pytest.mark.parametrize(("odd", "passed"), [(0, True), (4, True), (5, False)])
def test_answers_that_are_others_when_asked_again(odd: int, passed: bool) -> None:
    (first, second), natural = stages(warm={})["warm"], stages()[NATURAL]
    asked = [replace(first, asked_again=48, unlike=odd), replace(second, asked_again=48, unlike=0)]
    check = same_answers({NATURAL: natural, "warm": asked})
    assert check.passed is passed and check.value == pytest.approx(odd / N)
    assert passed or f"{odd} of them under warm" in check.sentence
    assert same_answers({NATURAL: natural, "warm": [first, second]}).passed is None


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (AttackSpec(name="apgd-ce", iterations=2), "the attack makes 2 steps along the gradient"),
        (AttackSpec(name="square"), "a user's, of unknown effort, or follows no gradient"),
        (AttackSpec(name="apgd-ce"), "the cross-entropy alone"),
        (AttackSpec(name="apgd-t"), ""),
        (AttackSpec(name="quick"), ""),
        (AttackSpec(name="standard"), ""),
    ],
)
def test_attacks_need_not_break_what_a_longer_ascent_broke(
    monkeypatch: pytest.MonkeyPatch, attack: AttackSpec, said: str
) -> None:
    monkeypatch.setattr(climbing, "STEPS", 20)  # as in a run
    spec = replace(spec_of(None), attack=attack)
    excused = sanity_checks._excused_ascent(spec, [], random=False)
    assert said in excused and bool(said) == bool(excused)


@pytest.mark.parametrize(
    ("broken", "passed"), [(range(16), True), (range(15), True), (range(14), False)]
)
def test_images_that_the_checks_break_and_attacks_leave(broken: range, passed: bool) -> None:
    """P(X >= 1) = .28 and P(X >= 2) = .04 for 16 images at 2%."""
    climbed = Check(SAME_ASCENT, None, None, "20 steps", {str(row): 0.1 for row in range(16)})
    actual = stages(published=dict.fromkeys(broken, "apgd-ce"), transfer=by("transfer", 0, 20))
    check = same_ascent(climbed, actual)
    assert check.passed is passed and check.value == pytest.approx((16 - len(broken)) / 16)
    assert same_ascent(climbed, actual, "its answers are random").passed is None
    assert same_ascent(climbed, stages(transfer={})).passed is None
    wrong = {**actual, NATURAL: outcome(NATURAL, by("natural", 14, 2))}
    assert same_ascent(climbed, wrong).passed is True
