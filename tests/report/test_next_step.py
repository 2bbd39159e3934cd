"""The lines beside the numbers: the next command, new breaks and failed checks."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dentbench.attacks.checks import Check, to_json
from dentbench.records.outcome import Record
from dentbench.records.stopping import Stopped, stopped
from dentbench.report.commands import command, next_command, options
from dentbench.report.formats.page import to_page
from dentbench.report.formats.render import FORMATS, render
from dentbench.report.next_step import next_step
from dentbench.report.table import Table
from dentbench.report.tables import defenses
from dentbench.report.tables import records as tables
from dentbench.report.verdict import verdict
from dentbench.spec.protocol import ProtocolSpec
from tests.report.fixed_records import DENT, coupled
from tests.report.verdict_records import ALL, SOUND, pair

Make = Callable[..., Record]


def words_of(line: str) -> list[str]:
    """The command of a line "Next: ...", as a shell would take it apart."""
    start = line.index("dentbench ")
    return shlex.split(line[start:])


# --- the next command -----------------------------------------------------------------------------


def test_a_final_verdict_has_no_next_step(make_record: Make) -> None:
    static, defended = pair(make_record, 340, ALL, 60, 5, 512, **SOUND)
    actual = verdict(static, defended)
    assert actual.kind == "holds" and next_step(actual, defended) == ""


def test_missing_protocols_are_run_on_the_same_record(make_record: Make) -> None:
    static, defended = pair(make_record, 340, {"published": 420}, 60, 5, 512, **SOUND)
    step = next_step(verdict(static, defended), defended, "elsewhere")
    wanted = ["--from-record", defended.key[:8], "--protocol", "all", "--results", "elsewhere"]
    assert words_of(step) == ["dentbench", "evaluate", *wanted]


def test_protocols_that_a_limit_left_no_time_for_are_named_and_run_next(make_record: Make) -> None:
    left = ("published", "warm", "bpda", "scores", "decision")
    stop = Stopped(rule="time limit", images=512, of=512, level=0.025, not_run=left)
    held = {**SOUND, "stopped": stop.to_json()}
    for lost, text in (
        (0, "the gain is in doubt: published was not run before the time limit; the same command"),
        (45, "every look allowed for); the same command without its limit goes on from there."),
    ):
        static, defended = pair(make_record, 340, {"transfer": 400}, 60, lost, 512, **held)
        judged = verdict(static, defended)
        assert judged.kind == "undecided" and text in judged.sentence
        assert "stopped by the time limit before published, warm, bpda, 2 more" in judged.sentence
        words = words_of(next_step(judged, defended))
        asked = [words[at + 1] for at, word in enumerate(words) if word == "--protocol"]
        assert asked == ([] if lost else ["all"]) and "--from-record" in words
    words = options(defended)
    asked = [words[at + 1] for at, word in enumerate(words) if word == "--protocol"]
    assert asked == ["transfer", *left]
    assert stopped(defended) == stop and "not_run" not in replace(stop, not_run=()).to_json()


def test_too_few_images_are_more_images(make_record: Make) -> None:
    static, defended = pair(make_record, 10, {"published": 14, "transfer": 11}, 2, 1, 20, seed=7)
    words = words_of(next_step(verdict(static, defended), defended))
    assert words[words.index("--examples") + 1] == "350" and words.count("--examples") == 1
    assert words[words.index("--seed") + 1] == "7" and "--batch-size" not in words
    assert words[words.index("--model") + 1] == "Carmon2019Unlabeled"


@pytest.mark.parametrize(("there", "said"), [(200, "--examples 195"), (25, "take more images")])
def test_no_more_images_are_asked_for_than_there_are(
    make_record: Make, tmp_path: Path, there: int, said: str
) -> None:
    """Of 20 images from number 5 on 350 would decide, of a file of 200, or 25."""
    np.savez(tmp_path / "d.npz", images=np.zeros((there, 1, 1, 1)), labels=np.arange(there))
    own = {
        "model": "m.pt",
        "dataset": "d",
        "first": 5,
        "source": json.dumps({"model": "m.pt", "data": str(tmp_path / "d.npz")}),
    }
    static, defended = pair(make_record, 10, {"published": 14, "transfer": 11}, 2, 1, 20, **own)
    step = next_step(verdict(static, defended), defended)
    assert said in step and ("dentbench" in step) == (there == 200)
    if there == 25:
        assert step == "Next: take more images of that kind, for d has 25"


def test_a_short_attack_is_the_whole_one(make_record: Make) -> None:
    quick = {"attack": "quick", "attack_label": "quick: APGD (not AutoAttack)", "iterations": 3}
    weak = {**SOUND, "budgets": json.dumps({name: {"iterations": 3} for name in ALL})}
    static, defended = pair(make_record, 340, ALL, 60, 5, 512, **{**weak, **quick})
    words = words_of(next_step(verdict(static, defended), defended))
    assert words[words.index("--attack") + 1] == "standard" and "--iterations" not in words


def test_what_no_option_settles_comes_first(make_record: Make) -> None:
    failed = to_json([Check("modes", False, 1.0, "answers differ without gradients")])
    static, defended = pair(make_record, 340, ALL, 60, 5, 512, **{**SOUND, "checks": failed})
    step = next_step(verdict(static, defended), defended)
    assert step.startswith("Next: answer alike with and without gradients; ")
    assert words_of(step)[:3] == ["dentbench", "evaluate", "--from-record"]


def test_a_record_made_from_python_has_a_call(make_record: Make) -> None:
    own = {"model": "my model", "dataset": "my data", **SOUND}
    static, defended = pair(make_record, 340, {"published": 420}, 60, 5, 512, **own)
    step = next_step(verdict(static, defended), defended)
    assert step == 'Next: dentbench.evaluate(model, images, labels, protocols="all", ...)'


def test_a_call_says_the_batch_size_too(make_record: Make) -> None:
    own = {"model": "my model", "dataset": "my data", "batch_size": 128}
    _, defended = pair(make_record, 10, {"published": 14}, 2, 1, 20, **own)
    call = next_command(defended, "results", [("--batch-size", "2"), ("--examples", "48")])
    assert call == "dentbench.evaluate(model, images, labels, batch_size=2, ...) with 48 images"


def test_the_command_leaves_defaults_out_and_says_the_rest(make_record: Make) -> None:
    own = {
        **DENT,
        "n": 128,
        "count": 128,
        "source": json.dumps({"model": "./a b.pt", "arch": "m:f"}),
    }
    record = make_record(3, 100, {"published": 50}, **{**own, "model": "a b.pt", "lr": 0.02})
    assert shlex.split(command(record)) == [
        *("dentbench", "evaluate", "--model", "./a b.pt", "--dataset", "cifar10", "--arch", "m:f"),
        *("--examples", "128", "--norm", "Linf", "--eps", "8/255", "--lr", "0.02"),
        *("--protocol", "published"),
    ]
    assert options(record)[:4] == ["--model", "./a b.pt", "--dataset", "cifar10"]


def test_settings_of_protocols_that_are_the_default_are_left_out(make_record: Make) -> None:
    settings = ProtocolSpec(rounds=5).settings_json
    record = make_record(3, 100, {"published": 50}, **DENT, protocol_settings=settings)
    words = options(record)
    assert words.count("--protocol-set") == 1 and "rounds=5" in words


# --- sentences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("worst", [402, 390])
def test_no_sentence_is_read_two_ways(make_record: Make, worst: int) -> None:
    """The published number is never called the worst beside a worst case that is below it."""
    static, defended = pair(make_record, worst, {"published": 402, "transfer": 410}, 5, 5, 512)
    sentence = verdict(static, defended).sentence
    assert "also its worst" not in sentence and "falls" not in sentence
    assert ("but 76.2% (390/512) in the worst case per image" in sentence) == (worst == 390)


# --- new breaks -----------------------------------------------------------------------------------

NEWLY = {"published": 18, "batch-mates": 25}


def test_what_a_protocol_broke_itself_stands_in_its_row(make_record: Make) -> None:
    static = make_record(1, 99, {"published": 50}, n=100)
    defended = coupled(make_record, batch_size=50, newly_broken=json.dumps(NEWLY))
    for table in (tables.summary(static, defended), tables.protocols([static, defended])):
        at = next(n for n, column in enumerate(table.columns) if column.title == "newly broken")
        actual = {
            name: row[at].value
            for row in table.rows
            for name in NEWLY
            if name in [cell.text.removeprefix("dent, ") for cell in row]
        }
        assert actual == NEWLY


def test_one_batch_has_one_worst_case(make_record: Make) -> None:
    static = make_record(1, 99, {"published": 50}, n=100)
    alone = coupled(make_record, batch_size=100)
    for table in (tables.summary(static, alone), tables.protocols([static, alone])):
        assert not [cell for row in table.rows for cell in row if "per batch" in cell.text]
        assert "per batch" not in " ".join(table.notes)


# --- failed checks --------------------------------------------------------------------------------

ODD = "answers are probabilities; hand in logits"
LOGITS = to_json([Check("logits", False, 1.0, ODD)])


def shown(static: Record, defended: Record) -> list[Table]:
    both = [static, defended]
    return [
        tables.all_records(both),
        tables.table1(both),
        tables.protocols(both),
        tables.summary(static, defended),
        defenses.beside(static, [defended]),
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_a_failed_check_is_told_in_every_format(make_record: Make, form: str) -> None:
    """Of the static model, whose numbers stand there too, and of the defense."""
    changes: dict[str, Any] = {**SOUND, "static_checks": LOGITS}
    static, defended = pair(make_record, 340, ALL, 60, 5, 512, **changes)
    static = replace(static, checks=LOGITS)
    odd = to_json([Check("gradient", False, 0.0, "no gradient reaches the images")])
    defended = replace(defended, checks=odd)
    for table in shown(static, defended):
        text = render(table, form).replace("{}", "").replace("\\", "")
        assert "check logits failed" in text, table.title
        assert "failed checks: gradient" in text, table.title


def test_the_page_tells_checks_and_the_next_command(make_record: Make, tmp_path: Any) -> None:
    changes: dict[str, Any] = {**SOUND, "static_checks": LOGITS}
    static, defended = pair(make_record, 340, ALL, 60, 5, 512, **changes)
    page = to_page([replace(static, checks=LOGITS), defended], [], tmp_path)
    page = re.sub(r"</?span[^>]*>", "", page)  # options are kept in one line
    assert f"Check of the static model logits failed: {ODD}." in page
    assert "Next: hand in the logits; " in page and "dentbench evaluate --from-record" in page


@pytest.mark.parametrize(
    ("changes", "forced"),
    [
        ({}, False),
        (
            {"checks": to_json([Check("natural-accuracy", False, 0.0, "no better than chance")])},
            True,
        ),
        ({"eps": "8"}, True),
    ],
)
def test_a_command_that_would_stop_is_forced_again(
    make_record: Make, changes: dict[str, Any], forced: bool
) -> None:
    record = make_record(3, 100, {"published": 50}, **{**DENT, "n": 128, "count": 128, **changes})
    assert ("--force" in shlex.split(command(record))) == forced
