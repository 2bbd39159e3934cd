"""The gain that is left without the images that attacks are misled about."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentbench.attacks.evidence import NEEDED
from dentbench.evaluation.checks import gained_images, sanity_checks
from dentbench.evaluation.checks.gained_images import Asked, check_of, check_of_loss
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.runner import Evaluation
from dentbench.spec.evaluation import BatchPlan
from tests.helpers import spec_of, subject


def asked(are: int, wrong: int, of: int) -> Asked:
    return Asked(are, ["have no gradient"] * wrong + [""] * (of - wrong))


@pytest.mark.parametrize(
    ("gained", "kept", "lost", "separable", "passed"),
    [
        (asked(20, 0, 20), asked(60, 0, 60), 4, True, True),
        (asked(20, 9, 20), asked(60, 0, 60), 4, True, False),  # 11 gained, 4 lost: p = 0.12
        (asked(20, 9, 20), asked(60, 0, 60), 1, True, True),  # 11 gained, 1 lost: p = 0.006
        (asked(100, 32, 64), asked(60, 0, 60), 40, True, False),  # half of 64 is half of 100
        (asked(20, 0, 20), asked(60, 12, 60), 2, True, False),  # 20 gained, 14 lost
        (asked(20, 0, 20), asked(600, 2, 64), 2, True, True),  # 2 of 64 are chance
        (asked(20, 6, 20), asked(60, 12, 60), 2, False, True),  # of coupled images a fifth is
        (asked(20, 20, 20), asked(60, 0, 60), 0, False, False),
        (asked(7, 1, 7), asked(0, 0, 0), 0, True, True),
    ],
)
def test_a_gain_must_be_left(
    gained: Asked, kept: Asked, lost: int, separable: bool, passed: bool
) -> None:
    check = check_of(gained, kept, lost, separable=separable)
    assert check.passed is passed, check.sentence
    wrong = sum(map(bool, (*gained.faults, *kept.faults)))
    assert check.value == wrong / (len(gained.faults) + len(kept.faults))


@pytest.mark.parametrize(
    ("lost", "gained", "separable", "passed"),
    [
        (asked(20, 0, 20), 4, True, True),
        (asked(20, 9, 20), 4, True, False),  # 11 lost, 4 gained: p = 0.12
        (asked(20, 2, 20), 4, False, True),  # of coupled images a fifth is chance
        (asked(100, 60, 64), 0, True, True),  # 6 of 100 are left: p = 0.03
    ],
)
def test_a_loss_must_be_left(lost: Asked, gained: int, separable: bool, passed: bool) -> None:
    check = check_of_loss(lost, gained, separable=separable)
    assert check.name == "lost-images" and check.passed is passed, check.sentence


def elsewhere(wrong: int, of: int) -> dict[str, list[str]]:
    return {"shuffled": [""] * of, "alone": ["have no gradient"] * wrong + [""] * (of - wrong)}


@pytest.mark.parametrize(
    ("gained", "kept", "passed"),
    [
        (elsewhere(0, 12), elsewhere(0, 20), True),
        (elsewhere(12, 12), elsewhere(0, 20), False),
        (elsewhere(0, 12), elsewhere(20, 20), False),
        (elsewhere(3, 12), elsewhere(5, 20), True),
    ],
)
def test_a_gain_must_be_left_in_other_batches_too(
    gained: dict[str, list[str]], kept: dict[str, list[str]], passed: bool
) -> None:
    """Whichever batches it is where attacks are misled on the most images."""
    first, second = Asked(20, [""] * 20, gained), Asked(60, [""] * 60, kept)
    check = check_of(first, second, 2, separable=False)
    assert check.passed is passed, check.sentence
    wrong = sum(map(bool, (*gained["alone"], *kept["alone"])))
    assert (f"in alone batches on {wrong} of 32" in check.sentence) is (wrong > 0)


def made(path: Path, size: int = 3) -> Evaluation:
    return Evaluation(subject(7), RunOptions(results=path))


def test_batches_of_one_are_asked_about_one_by_one(tmp_path: Path) -> None:
    spec = spec_of(None, batches=BatchPlan(size=1))
    probe = sanity_checks.probe_of(made(tmp_path).context, spec)
    assert len(probe.images) == 7
    sizes = []
    context = made(tmp_path).context
    shown = sanity_checks.in_batches(context, spec, lambda x: sizes.append(len(x)) or x.flatten(1))
    shown(probe.images)
    assert sizes == [1] * 7


def test_it_is_made_once_of_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, spec, calls = made(tmp_path).context, spec_of(), []

    def count(*arguments: object) -> list[Asked]:
        calls.append(arguments)
        return [asked(7, 7, 7), asked(0, 0, 0)]

    monkeypatch.setattr(gained_images, "_asked", count)
    worst = [True] * 7
    for static in ([False] * 7, [False] * 7, [True, *[False] * 6]):
        check = gained_images.gained_images(context, spec, worst, {"natural": static}, NEEDED)
        assert check.passed is False
    assert len(calls) == 2
    none = gained_images.gained_images(context, spec, worst, {"natural": [True] * 7}, NEEDED)
    assert none.passed is None
    assert len(calls) == 2


def test_where_no_gain_could_hold_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may cost more than a short attack, of which a gain is told all the same."""
    monkeypatch.setattr(gained_images, "_asked", lambda *arguments: pytest.fail("it was asked"))
    context, spec, static = made(tmp_path).context, spec_of(), {"natural": [False] * 7}
    check = gained_images.gained_images(context, spec, [True] * 7, static, NEEDED[:-1])
    assert check.passed is None
    assert NEEDED[-1] in check.sentence


def test_a_loss_asks_the_static_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, spec, calls = made(tmp_path).context, spec_of(), []

    def count(context: object, spec: object, of: object, kinds: object) -> list[Asked]:
        calls.append((of, kinds))
        return [asked(7, 7, 7)]

    monkeypatch.setattr(gained_images, "_asked", count)
    for _ in range(2):
        check = gained_images.lost_images(context, spec, [False] * 7, {"natural": [True] * 7})
        assert check.passed is False
    assert calls == [(spec.static, ([*range(7)],))]
    none = gained_images.lost_images(context, spec, [True] * 7, {"natural": [True] * 7})
    assert none.passed is None
