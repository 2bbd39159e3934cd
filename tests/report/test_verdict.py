"""The verdict's rule: every kind, what decides, and what it refuses to judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dentbench.attacks.checks import Check, to_json
from dentbench.errors import SpecError
from dentbench.records.outcome import Record
from dentbench.report.verdict import verdict

Make = Callable[..., Record]
DENT = {"mode": "instance", "steps": 6}
SEPARABLE = {"separable": True}
ALL = {"published": 420, "transfer": 400, "warm": 400, "bpda": 390, "scores": 385, "decision": 388}
CHECKS = to_json([Check("repeatable", True, 0.0, "the same")])


def pair(
    make: Make, static: int, counts: dict[str, int], gained: int, lost: int, n: int, **changes: Any
) -> tuple[Record, Record]:
    common = {"n": n, "count": n, **changes}
    defended = make(2, n, counts, **common, **DENT, gained=gained, lost=lost)
    worst = static + gained - lost
    return make(1, n, {"published": static}, **common), replace(defended, robust_correct=worst)


def test_no_gain(make_record: Make) -> None:
    counts = {"published": 402, "transfer": 349}
    found = verdict(*pair(make_record, 347, counts, 6, 4, 512))
    assert (found.kind, found.protocol) == ("no gain", "transfer")
    assert found.gain_points == pytest.approx(100 * 2 / 512)
    assert found.p_value == pytest.approx(0.7539, abs=1e-4)
    assert found.sentence == (
        "No gain: dent's published 78.5% (402/512) falls to 68.2% (349/512) under transfer; "
        "the static model has 67.8% (347/512), paired p = 0.75."
    )


def test_holds(make_record: Make) -> None:
    found = verdict(*pair(make_record, 300, ALL, 90, 10, 512, **SEPARABLE, checks=CHECKS))
    assert found.kind == "holds" and found.p_value < 0.001 and not found.doubts
    assert found.sentence.startswith("Holds: ") and "paired p < 0.001" in found.sentence
    assert found.gain_low < found.gain_points < found.gain_high
    assert found.meets(10) and not found.meets(found.gain_low + 0.1)


def test_the_published_protocol_alone_never_holds(make_record: Make) -> None:
    found = verdict(*pair(make_record, 300, {"published": 420}, 130, 10, 512, checks=CHECKS))
    assert (found.kind, found.protocol) == ("undecided", "published")
    assert found.sentence.endswith(
        "the gain is in doubt: only the published protocol was run; run --protocol all."
    )
    assert not found.meets(0)


@pytest.mark.parametrize("name", ["transfer", "warm", "scores", "decision", "bpda"])
def test_a_gain_that_withstood_too_little_is_undecided(make_record: Make, name: str) -> None:
    counts = {key: value for key, value in ALL.items() if key != name}
    found = verdict(*pair(make_record, 300, counts, 90, 10, 512, **SEPARABLE, checks=CHECKS))
    assert found.kind == "undecided" and len(found.doubts) == 1
    assert name in found.doubts[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attack": "quick", "attack_label": "quick (not AutoAttack)"}, "run --attack standard"),
        ({"iterations": 20, "attack_label": "x (not AutoAttack)"}, "run --attack standard"),
        ({"separable": False}, "batch-mates was not run"),
        ({"checks": None}, "no checks were made"),
    ],
)
def test_what_else_a_gain_needs(make_record: Make, changes: dict[str, Any], words: str) -> None:
    settings = {**SEPARABLE, "checks": CHECKS, **changes}
    found = verdict(*pair(make_record, 300, ALL, 90, 10, 512, **settings))
    assert found.kind == "undecided"
    assert words in found.sentence


@pytest.mark.parametrize(
    ("name", "more", "holds"),
    [
        ("stateless", {"eot": 400}, False),
        ("separable", {"eot": 400}, False),
        ("logits", {}, False),
        ("in-range", {}, False),
        ("black-box", {}, False),
        ("natural-accuracy", {}, False),
        ("repeatable", {}, False),
        ("repeatable", {"eot": 400}, True),
        ("gradient", {}, True),  # scores, decision and bpda are there
        ("true-gradient", {}, True),
        ("exact-gradient", {}, False),
        ("exact-gradient", {"unrolled": 400}, True),
        ("ascent", {}, True),
        ("transfer", {}, True),  # warm is there
    ],
)
def test_a_failed_check_weighs_in(
    make_record: Make, name: str, more: dict[str, int], holds: bool
) -> None:
    checks = to_json([Check(name, False, 1.0, "something is odd")])
    counts = {**ALL, **more}
    found = verdict(*pair(make_record, 300, counts, 90, 10, 512, **SEPARABLE, checks=checks))
    assert found.kind == ("holds" if holds else "undecided")
    assert holds or f"the check {name} failed: something is odd; " in found.sentence


def test_a_failed_check_does_not_save_a_defense(make_record: Make) -> None:
    checks = to_json([Check("stateless", False, 1.0, "odd")])
    counts = {"published": 402, "transfer": 349}
    assert verdict(*pair(make_record, 347, counts, 6, 4, 512, checks=checks)).kind == "no gain"


def test_weaker_than_static(make_record: Make) -> None:
    found = verdict(*pair(make_record, 300, {"published": 400, "transfer": 250}, 10, 60, 512))
    assert found.kind == "weaker than static" and found.gain_points < 0


def test_undecided_says_what_would_decide(make_record: Make) -> None:
    found = verdict(*pair(make_record, 10, {"published": 14, "transfer": 11}, 2, 1, 20))
    assert found.kind == "undecided"
    assert "about 350 images would decide" in found.sentence
    clear = verdict(*pair(make_record, 10, {"published": 14, "transfer": 13}, 4, 1, 20))
    assert clear.kind == "undecided" and "about 55 images" in clear.sentence


def test_no_gain_needs_enough_images(make_record: Make) -> None:
    for n, kind in ((20, "undecided"), (100, "no gain")):
        found = verdict(*pair(make_record, 10, {"published": 10, "transfer": 10}, 0, 0, n))
        assert found.kind == kind and found.p_value == 1.0


def test_the_worst_case_per_image_is_said(make_record: Make) -> None:
    static, defended = pair(make_record, 340, {"published": 402, "transfer": 349}, 3, 3, 512)
    assert "falls to 68.2% (349/512) under transfer and to 66.4% (340/512) in the worst case" in (
        verdict(static, defended).sentence
    )


def test_a_quick_attack_is_named(make_record: Make) -> None:
    quick = {"attack": "quick", "attack_label": "quick: APGD (not AutoAttack)"}
    counts = {"published": 402, "transfer": 349}
    assert "under transfer (quick, not AutoAttack); the static" in (
        verdict(*pair(make_record, 347, counts, 6, 4, 512, **quick)).sentence
    )


def test_what_is_refused(make_record: Make) -> None:
    static, defended = pair(make_record, 347, {"published": 402, "transfer": 349}, 6, 4, 512)
    for bad, message in (
        ((static, static), "a static and a defended record are needed"),
        ((defended, static), "a static and a defended record are needed"),
        ((static, replace(defended, data_sha256="0")), "differ in data_sha256"),
        ((replace(static, eps="0.1"), defended), "differ in eps"),
        ((static, replace(defended, gained=None)), "was not compared"),
        ((static, replace(defended, gained=7)), "another static record"),
    ):
        with pytest.raises(SpecError, match=message):
            verdict(*bad)
