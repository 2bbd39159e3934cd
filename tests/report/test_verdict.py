"""The verdict's rule: every kind, its reasons, and the records that it refuses to judge."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.checks import (
    INDISPENSABLE,
    NAMES,
    OF_DEFENSES,
    PASSES,
    PLANTED,
    Check,
    to_json,
)
from dentbench.attacks.required_budgets import REQUIRED
from dentbench.errors import SpecError
from dentbench.records.stopping import Stopped
from dentbench.report import coupling
from dentbench.report.remedies import GOING_ON
from dentbench.report.verdict import kind_of, verdict
from dentbench.stats.sequential import levels
from dentbench.zoo.images.image_counts import named_images
from tests.report.verdict_records import ALL, BUDGETS, MADE, SOUND, Make, pair


def with_failed(*names: str, passed: bool | None = False) -> str:
    """The column of checks with some that failed, or could not be made."""
    odd = [Check(name, passed, 1.0, "something is odd") for name in names]
    return to_json([*(item for item in MADE if item.name not in names), *odd])


def test_no_gain(make_record: Make) -> None:
    counts = {"published": 402, "transfer": 349}
    actual = verdict(*pair(make_record, 347, counts, 6, 4, 512))
    assert (actual.kind, actual.protocol) == ("no gain", "transfer")
    assert actual.gain_points == pytest.approx(100 * 2 / 512)
    assert actual.p_value == pytest.approx(0.7539, abs=1e-4)
    assert actual.sentence == (
        "No gain: dent's published 78.5% (402/512) falls to 68.2% (349/512) under transfer; "
        "the static model has 67.8% (347/512), paired p = 0.75."
    )


def test_no_gain_beside_an_interval_above_zero_says_which_gain_is_excluded(
    make_record: Make,
) -> None:
    level = levels([64] * 15 + [40])[7]
    stop = Stopped(rule="decided", images=448, of=1000, level=level).to_json()
    counts = {"transfer": 153, "bpda": 142}
    actual = verdict(*pair(make_record, 134, counts, 8, 0, 448, stopped=stop))
    assert (actual.kind, actual.gain_low > 0, actual.gain_high < 5) == ("no gain", True, True)
    assert actual.sentence.endswith(
        "the gain is +1.8 (+0.1 to +4.5) points, every look allowed for); a gain of 5 points is "
        "excluded, a smaller gain is not."
    )
    counts = {"transfer": 153, "bpda": 135}
    actual = verdict(*pair(make_record, 134, counts, 1, 0, 448, stopped=stop))
    assert actual.kind == "no gain" and "excluded" not in actual.sentence


def test_holds(make_record: Make) -> None:
    actual = verdict(*pair(make_record, 300, ALL, 90, 10, 512, **SOUND))
    assert actual.kind == "holds" and actual.p_value < 0.001 and not actual.doubts
    assert actual.sentence.startswith("Holds: ") and "paired p < 0.001" in actual.sentence
    assert "natural accuracy is 100.0% (512/512), the static model's 100.0%" in actual.sentence
    assert actual.gain_low < actual.gain_points < actual.gain_high
    assert actual.meets(10) and not actual.meets(actual.gain_low + 0.1)


def test_holds_says_which_protocols_it_rests_on(make_record: Make) -> None:
    shares = {"published": 0.125, "transfer": 0.0, "unrolled": 0.875, "warm": 0.75}
    planted = Check(PLANTED, True, 0.875, "some are found", shares)
    settings = SOUND | {"checks": to_json([*MADE[:-1], planted])}
    actual = verdict(*pair(make_record, 300, ALL, 90, 10, 512, **settings))
    assert actual.kind == "holds"
    assert "; it rests on unrolled, warm, not on published, transfer: " in actual.sentence


@pytest.mark.parametrize("passed", [None, "absent"])
def test_a_gain_needs_attacks_that_were_seen_to_work(make_record: Make, passed: Any) -> None:
    """Whatever the reason: in a norm without planted points, or in an old record."""
    odd = [] if passed == "absent" else [Check(PLANTED, None, None, "not made in L1")]
    settings = SOUND | {"checks": to_json([*MADE[:-1], *odd])}
    actual = verdict(*pair(make_record, 300, ALL, 90, 10, 512, **settings))
    assert actual.kind == "undecided" and len(actual.doubts) == 1
    assert "the check planted " in actual.doubts[0]


def test_a_record_alone_says_the_same(make_record: Make) -> None:
    for changes in ({}, {"checks": with_failed("ascent")}, {"static_checks": None}):
        for gained, lost in ((90, 10), (10, 90), (6, 4), (30, 20)):
            static, defended = pair(make_record, 300, ALL, gained, lost, 512, **SOUND | changes)
            assert kind_of(defended) == verdict(static, defended).kind
    assert kind_of(make_record(1, 9, {"published": 5})) is None


def test_the_published_protocol_alone_never_holds(make_record: Make) -> None:
    actual = verdict(*pair(make_record, 300, {"published": 420}, 130, 10, 512, **SOUND))
    assert (actual.kind, actual.protocol) == ("undecided", "published")
    assert actual.sentence.endswith(
        "the gain is in doubt: only the published protocol was run; run --protocol all."
    )
    assert not actual.meets(0)


@pytest.mark.parametrize("name", list(ALL))
def test_a_gain_that_withstood_too_little_is_undecided(make_record: Make, name: str) -> None:
    counts = {key: value for key, value in ALL.items() if key != name}
    actual = verdict(*pair(make_record, 300, counts, 90, 10, 512, **SOUND))
    assert actual.kind == "undecided" and len(actual.doubts) == 1
    assert name in actual.doubts[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budgets": None}, "the record does not say the budget of its attacks"),
        (
            {
                "separable": False,
                "batch_size": 32,
                "by_batch": json.dumps({"gained": [6, 5] * 8, "lost": [1, 0] * 8}),
            },
            "batch-mates was not run",
        ),
        ({"checks": None}, "no checks were made"),
        ({"checks": "{}"}, "could not be made"),
        ({"static_checks": None}, "the static model's checks"),
        ({"eps": "0"}, "a larger --eps"),
    ],
)
def test_what_else_a_gain_needs(make_record: Make, changes: dict[str, Any], words: str) -> None:
    actual = verdict(*pair(make_record, 300, ALL, 90, 10, 512, **SOUND | changes))
    assert actual.kind == "undecided"
    assert words in " ".join(actual.doubts)


@pytest.mark.parametrize(("n", "kind"), [(19, "undecided"), (20, "holds")])
def test_a_gain_of_few_images_is_undecided(make_record: Make, n: int, kind: str) -> None:
    actual = verdict(*pair(make_record, 5, ALL, 10, 0, n, **SOUND))
    assert actual.kind == kind and (kind == "holds" or "--examples" in actual.sentence)


# --- checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != PASSES])
def test_no_failed_check_stands_beside_holds(make_record: Make, name: str) -> None:
    """Whatever else was run: every protocol there is was withstood."""
    counts = dict.fromkeys(PROTOCOLS, 385)
    settings = SOUND | {"checks": with_failed(name)}
    actual = verdict(*pair(make_record, 300, counts, 90, 10, 512, **settings))
    assert actual.kind == "undecided"
    assert f"the check {name} failed: something is odd; " in actual.sentence


@pytest.mark.parametrize(
    ("column", "name"),
    [
        *(("checks", name) for name in INDISPENSABLE),
        *(("static_checks", name) for name in INDISPENSABLE if name not in OF_DEFENSES),
    ],
)
def test_a_check_that_could_not_be_made_is_a_doubt(
    make_record: Make, column: str, name: str
) -> None:
    settings = SOUND | {column: with_failed(name, passed=None), "static_correct": 300}
    for counts, kind in (((90, 10), "undecided"), ((10, 90), "no gain")):
        actual = verdict(*pair(make_record, 300, ALL, *counts, 512, **settings))
        assert actual.kind == kind and f"check {name} could not be made" in actual.sentence
    even = verdict(*pair(make_record, 300, ALL, 6, 4, 512, **settings))
    assert even.kind == "no gain"


def test_no_gain_needs_answers_that_a_new_process_repeats(make_record: Make) -> None:
    """Of two protocols and natural images, 0.6% or 0.7% of points are about 2% of images."""
    counts = {"published": 402, "transfer": 349}
    for share, kind in ((0.0, "no gain"), (0.006, "no gain"), (0.007, "undecided")):
        odd = Check("fresh-process", False, share, "odd")
        checks = to_json([*(item for item in MADE if item.name != odd.name), odd])
        actual = verdict(*pair(make_record, 347, counts, 6, 4, 512, checks=checks))
        assert actual.kind == kind, actual
        text = "the defense's robustness is in doubt: the check fresh-process failed"
        assert (text in actual.sentence) == (kind == "undecided")


def test_a_failed_check_does_not_save_a_defense(make_record: Make) -> None:
    checks = with_failed("stateless")
    actual = verdict(*pair(make_record, 347, ALL, 6, 4, 512, **SOUND | {"checks": checks}))
    assert actual.kind == "no gain"


@pytest.mark.parametrize("name", ["logits", "gradient", "black-box", "ascent", "in-range"])
@pytest.mark.parametrize("counts", [(90, 10), (10, 90), (6, 4)])
def test_a_static_model_that_was_attacked_wrongly_decides_nothing(
    make_record: Make, name: str, counts: tuple[int, int]
) -> None:
    settings = SOUND | {"static_checks": with_failed(name)}
    actual = verdict(*pair(make_record, 300, ALL, *counts, 512, **settings))
    assert actual.kind == "undecided"
    assert f"the static model's check {name} failed: something is odd; " in actual.sentence


# --- budgets --------------------------------------------------------------------------------------


def spending(**changes: dict[str, float] | None) -> dict[str, Any]:
    """A record's columns with other budgets; None takes one away."""
    budgets = {**BUDGETS, **{name.replace("_", "-"): item for name, item in changes.items()}}
    return SOUND | {"budgets": json.dumps({k: v for k, v in budgets.items() if v is not None})}


@pytest.mark.parametrize("name", sorted(REQUIRED.keys() - {"published"}))
def test_a_protocol_with_less_than_its_least_budget_is_named(make_record: Make, name: str) -> None:
    least = REQUIRED[name]
    quantity = next(iter(least))
    short = {**least, quantity: least[quantity] / 2}
    chosen = json.dumps({"iterations": 1, "queries": 1})
    settings = spending(**{name: short}) | {"protocol_settings": chosen}
    actual = verdict(*pair(make_record, 300, ALL, 90, 10, 512, **settings))
    assert actual.kind == "undecided"
    assert f"spent on {name} ({quantity} {short[quantity]:g} of " in actual.sentence
    assert "run it without --protocol-set iterations, queries" in actual.sentence


def test_more_than_the_least_budget_is_not_doubted(make_record: Make) -> None:
    more = {
        name: {name: 2 * value for name, value in least.items()} for name, least in BUDGETS.items()
    }
    label = {"attack": "plus", "attack_label": "AutoAttack plus"}
    settings = SOUND | label | {"budgets": json.dumps(more)}
    assert verdict(*pair(make_record, 300, ALL, 90, 10, 512, **settings)).kind == "holds"


def test_the_attack_is_judged_by_its_budget_and_not_by_its_name(make_record: Make) -> None:
    mine = {"attack": "mine", "attack_label": "mine (not AutoAttack)"}
    assert verdict(*pair(make_record, 300, ALL, 90, 10, 512, **SOUND | mine)).kind == "holds"
    short = {"apgd-ce iterations": 100.0}
    for label in (mine, {}):
        settings = spending(published=short) | label
        for counts, kind in (((90, 10), "undecided"), ((10, 90), "no gain")):
            actual = verdict(*pair(make_record, 300, ALL, *counts, 512, **settings))
            assert actual.kind == kind and "run --attack standard" in actual.sentence


# --- losses ---------------------------------------------------------------------------------------


def test_weaker_than_static(make_record: Make) -> None:
    actual = verdict(*pair(make_record, 300, ALL, 10, 60, 512, **SOUND, static_correct=300))
    assert actual.kind == "weaker than static" and actual.gain_points < 0 and not actual.doubts


@pytest.mark.parametrize(
    "name",
    ["repeatable", "stateless", "separable", "in-range", "same-verdict", "same-answers"],
)
def test_a_loss_needs_a_judge_that_can_be_trusted(make_record: Make, name: str) -> None:
    settings = SOUND | {"checks": with_failed(name), "static_correct": 300}
    actual = verdict(*pair(make_record, 300, ALL, 10, 60, 512, **settings))
    assert actual.kind == "no gain" and f"the loss is in doubt: the check {name}" in actual.sentence


def test_a_loss_by_chance_counts_where_draws_were_compared(make_record: Make) -> None:
    gain = {"mean": -0.1, "low": -0.14, "high": -0.06, "p": 1e-6}
    chance = json.dumps({"draws": 10, "gain": gain})
    settings = SOUND | {"checks": with_failed("repeatable"), "static_correct": 300}
    actual = verdict(*pair(make_record, 300, ALL, 10, 60, 512, **settings, chance=chance))
    assert actual.kind == "weaker than static" and "10 draws" in actual.sentence
    better = {**gain, "mean": 0.1, "low": 0.06, "high": 0.14}
    settings["chance"] = json.dumps({"draws": 10, "gain": better})
    actual = verdict(*pair(make_record, 300, ALL, 60, 10, 512, **settings))
    assert actual.kind == "undecided" and "the check repeatable failed" in actual.sentence


def test_a_loss_needs_a_static_model_that_faced_as_much(make_record: Make) -> None:
    actual = verdict(*pair(make_record, 300, ALL, 10, 60, 512, **SOUND))
    assert actual.kind == "no gain" and "faced fewer attacks" in actual.sentence


def test_a_loss_needs_a_static_model_that_was_shown_the_points(make_record: Make) -> None:
    without = {name: count for name, count in ALL.items() if name != "transfer"}
    settings = SOUND | {"static_correct": 300}
    actual = verdict(*pair(make_record, 300, without, 10, 60, 512, **settings))
    assert actual.kind == "no gain" and "found; run transfer too" in actual.sentence
    alone = verdict(*pair(make_record, 300, {"published": 250}, 10, 60, 512, **settings))
    assert alone.kind == "weaker than static"


def test_what_hides_a_gradient_makes_no_loss_doubtful(make_record: Make) -> None:
    settings = SOUND | {"checks": with_failed("gradient", "ascent"), "static_correct": 300}
    actual = verdict(*pair(make_record, 300, ALL, 10, 60, 512, **settings))
    assert actual.kind == "weaker than static"


# --- images that share batches --------------------------------------------------------------------


def coupled(gained: list[int], lost: list[int], **changes: Any) -> dict[str, Any]:
    """A record's columns where images share batches of 32."""
    counts = json.dumps({"gained": gained, "lost": lost})
    return SOUND | {"separable": False, "batch_size": 32, "by_batch": counts, **changes}


MATES = ALL | {"batch-mates": 384}


def test_gains_of_single_batches_are_no_significant_gain(make_record: Make) -> None:
    """30 images of two batches of eight are two draws, not thirty."""
    spread = coupled([4] * 6 + [3, 3], [0] * 8)
    actual = verdict(*pair(make_record, 100, MATES, 30, 0, 256, **spread))
    assert actual.kind == "holds" and "(design effect 1 of 8 batches)" in actual.sentence
    lumped = coupled([15, 15] + [0] * 6, [0] * 8)
    actual = verdict(*pair(make_record, 100, MATES, 30, 0, 256, **lumped))
    assert actual.kind == "undecided" and actual.p_value > 0.05
    assert "of 8 batches)" in actual.sentence and "images would decide" in actual.sentence


def test_a_loss_that_no_whole_batch_shows_is_none(make_record: Make) -> None:
    """Per image the worst of many batches counts; the static model has none to choose from."""
    spread = coupled([0] * 8, [4] * 6 + [3, 3], static_correct=100)
    for together, kind in ((99, "weaker than static"), (100, "no gain"), (120, "no gain")):
        settings = spread | {"batch_worst_correct": together}
        actual = verdict(*pair(make_record, 100, MATES, 0, 30, 256, **settings))
        text = "; with every batch at the points worst for it as a whole it has "
        assert actual.kind == kind and (text in actual.sentence) == (kind == "no gain")
        assert kind != "no gain" or f"({together}/256), and loses none" in actual.sentence


FEW = (
    "{} batches are too few for a verdict on images that share them: with fewer than 6, luck sends "
    "all of them one way too often"
)


@pytest.mark.parametrize("kind", ["holds", "weaker than static", "no gain"])
@pytest.mark.parametrize("early", [False, True])
def test_five_batches_decide_nothing_and_six_do(make_record: Make, kind: str, early: bool) -> None:
    """All of them go one way, with a chance of 2^-batches a side: 3.1% of five, 1.6% of six."""
    for batches in (2, 3, 4, 5, 6):
        n, each = 32 * batches, 0 if kind == "no gain" else 12
        up, down = (0, each) if kind.startswith("weaker") else (each, 0)
        settings = coupled([up] * batches, [down] * batches, static_correct=15 * batches)
        if early:
            level = levels([32] * batches)[batches]
            stop = Stopped(rule="decided", images=n, of=n, level=level)
            settings["stopped"] = stop.to_json()
        sides = pair(make_record, 15 * batches, MATES, up * batches, down * batches, n, **settings)
        actual = verdict(*sides)
        if batches == 6:
            assert actual.kind == kind
            continue
        assert (actual.kind, actual.p_value) == ("undecided", 1.0)
        assert (actual.gain_low, actual.gain_high) == (-100, 100)
        text = FEW.format(batches)
        assert actual.sentence.count(text) == 1 and "without a paired test" in actual.sentence
        size = {2: 8, 3: 16, 4: 16, 5: 16}[batches]
        assert actual.doubts == (
            f"{text}; run --batch-size {size} if that suits it, or --examples 192 or more",
        )
        assert actual.changes == (("--batch-size", str(size)),)
        assert json.loads(json.dumps(coupling.paired(sides[1]).data()))["effect"] is None


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("CIFAR-10 (test)", "run --batch-size 2 if that suits it, or --examples 768 or more"),
        ("CIFAR-10 (first 20 test images)", "run --batch-size 2 if that suits it"),
        ("of my own", "run --batch-size 2 if that suits it, or --examples 768 or more if there"),
    ],
)
def test_no_sentence_asks_for_images_that_are_not_there(dataset: str, words: str) -> None:
    there = named_images(dataset)
    said, option = coupling.more_batches(16, 128, "declared", there)
    assert said.startswith(words) and option == ("--batch-size", "2")
    assert ("768" in said) == (there != 20)
    said, _ = coupling.more_batches(4, 128, "declared", 4)
    assert said == "take 6 images or more"


def test_images_measured_to_be_independent_need_no_batches(make_record: Make) -> None:
    measured = to_json([*MADE, Check("separable", True, 1e-6, "it does not depend")])
    settings = coupled([10] * 3, [0] * 3, checks=measured)
    sides = pair(make_record, 30, MATES, 30, 0, 96, **settings)
    assert verdict(*sides).kind == "holds" and coupling.caption(sides[1]) == ""


def test_a_run_that_was_stopped_early_goes_on_where_the_rest_brings_the_batches(
    make_record: Make,
) -> None:
    stop = Stopped(rule="time limit", images=128, of=512, level=levels([32] * 16)[4])
    settings = coupled([0] * 4, [0] * 4, stopped=stop.to_json())
    actual = verdict(*pair(make_record, 30, MATES, 0, 0, 128, **settings))
    assert actual.kind == "undecided" and actual.sentence.endswith(f"{GOING_ON}.")
    stop = replace(stop, of=160)
    settings = coupled([0] * 4, [0] * 4, stopped=stop.to_json())
    actual = verdict(*pair(make_record, 30, MATES, 0, 0, 128, **settings))
    assert actual.changes == (("--batch-size", "16"),)  # 160 images in 10 batches


def test_the_mean_difference_of_a_random_defense_allows_for_its_batches(make_record: Make) -> None:
    gain = {"mean": 0.1, "low": 0.05, "high": 0.15, "p": 0.0001}
    chance = json.dumps({"draws": 10, "gain": gain})
    made = [coupled([9, 0] * 4, [0] * 8, chance=chance), coupled([9] * 4, [0] * 4, chance=chance)]
    many, few = (
        coupling.paired(pair(make_record, 30, MATES, 36, 0, 32 * batches, **settings)[1])
        for settings, batches in zip(made, (8, 4), strict=True)
    )
    assert many is not None and few is not None
    deviate = NormalDist().inv_cdf(0.00005) / math.sqrt(many.effect)
    assert many.effect > 3 and many.p_value == pytest.approx(2 * NormalDist().cdf(deviate))
    assert many.interval.low == pytest.approx(100 * (0.1 - 0.05 * math.sqrt(many.effect)))
    assert (few.p_value, few.interval.low, few.significant) == (1.0, -100, False)


def test_a_p_value_too_small_for_a_float_is_significant(make_record: Make) -> None:
    gain = {"mean": 0.9, "low": 0.85, "high": 0.95, "p": 0.0}
    chance = json.dumps({"draws": 10, "gain": gain})
    settings = coupled([9] * 8, [0] * 8, chance=chance)
    actual = coupling.paired(pair(make_record, 30, MATES, 72, 0, 256, **settings)[1])
    assert actual is not None and actual.significant and actual.p_value < 1e-9


def test_counts_that_do_not_fit_the_batches_are_not_used(make_record: Make) -> None:
    settings = coupled([10] * 5, [0] * 5)
    actual = verdict(*pair(make_record, 100, MATES, 50, 0, 256, **settings))
    assert (
        actual.kind == "undecided" and "no counts of its batches; run it again" in actual.sentence
    )


# --- sentences ------------------------------------------------------------------------------------


def test_undecided_says_what_would_decide(make_record: Make) -> None:
    actual = verdict(*pair(make_record, 10, {"published": 14, "transfer": 11}, 2, 1, 20))
    assert actual.kind == "undecided"
    assert "about 350 images would decide" in actual.sentence
    clear = verdict(*pair(make_record, 10, {"published": 14, "transfer": 13}, 4, 1, 20))
    assert clear.kind == "undecided" and "about 55 images" in clear.sentence


def test_no_gain_needs_enough_images(make_record: Make) -> None:
    for n, kind in ((20, "undecided"), (100, "no gain")):
        actual = verdict(*pair(make_record, 10, {"published": 10, "transfer": 10}, 0, 0, n))
        assert actual.kind == kind and actual.p_value == 1.0


@pytest.mark.parametrize(
    ("attack", "budget", "kind"),
    [
        ("apgd-ce", {"iterations": 1}, "undecided"),  # 223 of 256 digits right where quick has 177
        ("apgd-t", {"iterations": 10, "targets": 3}, "undecided"),
        ("apgd-t", {"iterations": 10, "targets": 4}, "no gain"),
        ("apgd-ce", {"iterations": 40}, "no gain"),
        ("square", {}, "undecided"),
        ("mine:attack@0123456789abcdef", {}, "undecided"),
        ("quick", {}, "no gain"),
        ("rand", {}, "no gain"),
        ("plus", {}, "no gain"),
    ],
)
def test_no_gain_needs_a_static_model_that_was_attacked(
    make_record: Make, attack: str, budget: dict[str, Any], kind: str
) -> None:
    counts = {"published": 402, "transfer": 349}
    pairs = pair(make_record, 347, counts, 6, 4, 512, attack=attack, **budget)
    actual = verdict(*pairs)
    assert actual.kind == kind == kind_of(pairs[1])
    if kind == "undecided":
        assert actual.changes[0] == ("--attack", "quick")
    # A counterpart of a protocol on the defense is an attack on the static model too.
    more = {
        "static_by_protocol": json.dumps({"published": 347, "warm": 347}),
        "budgets": json.dumps({"warm": {"ascents": 3, "iterations": 20, "targets": 1}}),
    }
    assert verdict(pairs[0], replace(pairs[1], **more)).kind == "no gain"


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
