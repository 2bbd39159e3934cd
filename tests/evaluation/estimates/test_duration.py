"""The forecast of a run: its stages, their passes, and those that are left."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dentbench.attacks.cost import Passes, stage_passes
from dentbench.attacks.counting import CallCounter
from dentbench.cli import first_look
from dentbench.cli.shared import SharedOptions
from dentbench.evaluation.estimates import duration
from dentbench.evaluation.estimates.duration import (
    Run,
    Speed,
    bound,
    speed_of,
    stages_of,
    surviving,
)
from dentbench.evaluation.progress.events import (
    BatchDone,
    PassesDone,
    PlanChanged,
    RunPlanned,
    Stage,
    StageBegan,
    Whole,
    duration_text,
)
from dentbench.evaluation.schedule import DECIDED, Schedule
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DataSpec, DentSpec, EvalSpec
from tests.helpers import spec_of

STANDARD = AttackSpec(name="standard", eps=Fraction(8, 255))
DENT = replace(
    spec_of(DentSpec(loss="entropy")),
    attack=STANDARD,
    data=DataSpec(name="noise", sha256="0", first=0, count=1000),
    batches=BatchPlan(size=100),
)
BATCH = replace(DENT, defense=DentSpec(mode="batch"))
SPECS = [DENT.static, DENT, BATCH]
PROTOCOLS: dict[Any, Any] = {DENT.static: ("published",)}
PROTOCOLS |= dict.fromkeys((DENT, BATCH), ("published", "transfer", "surrogate", "scores"))
WORKER: Any = SimpleNamespace(classes=10)


def run_of(left: Any = lambda spec, stage: 1000, **how: Any) -> Run:
    return Run(WORKER, SPECS, PROTOCOLS, left, 50.0, Schedule(**how))


def stage(spec: EvalSpec, name: str) -> Stage:
    return Stage(model="small", defense=spec.label, protocol=name, run=spec.key())


def test_every_stage_is_counted_once_however_many_defenses_need_it() -> None:
    stages = stages_of(SPECS, PROTOCOLS)
    assert len(stages) == len({(spec.defense, stage) for spec, stage in stages})
    static = [stage for spec, stage in stages if spec.defense is None]
    assert sorted(static) == ["natural", "published", "scores", "surrogate", "warm"]
    assert sorted(stage for spec, stage in stages if spec is DENT) == [
        *("natural", "published", "scores", "surrogate", "transfer", "warm")
    ]


def test_nothing_is_attacked_at_eps_0() -> None:
    none = replace(DENT, attack=replace(STANDARD, eps=Fraction(0)))
    assert bound(none, "published", 10) == Passes(0, 0)
    assert bound(none, NATURAL, 10) == stage_passes(DENT, NATURAL, 10)


def test_the_plan_is_the_bound_times_what_survives_of_what_is_left() -> None:
    plan = run_of().plan()
    published = stage(DENT, "published")
    passes = stage_passes(DENT, "published", 10)
    assert plan[published] == pytest.approx(
        (passes.forwards + passes.backwards) * 1000 * surviving(50.0)
    )
    done = run_of(lambda spec, name: 0 if name == "published" else 1000)
    assert published not in done.plan()
    assert run_of(lambda spec, name: 0).plan() == {}


def test_until_decided_is_foreseen_as_a_small_part() -> None:
    whole, decided = (sum(run_of(until=until).plan().values()) for until in ("", DECIDED))
    assert 0 < decided < whole / 10


def test_images_judged_before_count_for_a_run_until_decided() -> None:
    def foreseen(left: int) -> float:
        return run_of(lambda *_: left, until=DECIDED).plan()[stage(DENT, "transfer")]

    an_image = foreseen(1)
    fresh = foreseen(1000) / an_image
    assert 100 < fresh < 900
    assert foreseen(900) / an_image == pytest.approx(fresh - 100)
    beyond = foreseen(1000 - int(fresh) - 50) / an_image
    assert beyond == pytest.approx(min(DENT.batches.size, 1000)), "undecided there: another batch"


def test_long_runs_say_what_would_be_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dentbench.evaluation.estimates.duration.speed_of", lambda *_: Speed(1e-4, 2e-4)
    )
    text = run_of().forecast().text
    assert text.startswith("about ") and " on this machine (" in text
    assert "`--until decided` about " in text and "`--attack quick` about " in text
    text = run_of(until=DECIDED).forecast().text
    assert " if the cheapest protocol decides; the full evaluation about " in text
    monkeypatch.setattr(
        "dentbench.evaluation.estimates.duration.speed_of", lambda *_: Speed(1e-9, 1e-9)
    )
    assert run_of().forecast().text == ""


def test_forecasts_of_several_runs_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dentbench.evaluation.estimates.duration.speed_of", lambda *_: Speed(1e-4, 2e-4)
    )
    single = run_of(until=DECIDED).forecast()
    half = run_of(lambda spec, stage: 500, until=DECIDED).forecast()
    both = single + half
    assert both.whole == pytest.approx(1.5 * single.whole)
    assert both.decided == pytest.approx(single.decided + half.decided)
    assert sum(both.passes.values()) == pytest.approx(
        sum(single.passes.values()) + sum(half.passes.values())
    )
    assert "until decided about " in both.text


def test_all_of_a_run_is_told_as_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dentbench.evaluation.progress.events.time.perf_counter", lambda: now[0])
    first, second = (Stage(model="m", defense="d", protocol=name) for name in ("a", "b"))
    whole = Whole()
    assert whole.seconds_left is None
    whole(RunPlanned(passes={first: 400.0, second: 600.0}))
    whole(StageBegan(stage=first, passes=1000))
    now[0] = 10.0
    whole(PassesDone(passes=100))
    assert (whole.share, whole.seconds_left) == (pytest.approx(0.1, abs=0.02), pytest.approx(90.0))
    whole(BatchDone(done=1, batches=2, right=1, images=1))  # cheaper than planned: 100 a batch
    assert whole.seconds_left == pytest.approx(70.0)
    whole(StageBegan(stage=second, passes=1000))
    now[0] = 40.0
    whole(PassesDone(passes=300))
    assert whole.seconds_left == pytest.approx(40.0)
    # A protocol that turns out to be needed costs its bound, until a batch of it is finished.
    left = whole.seconds_left
    whole(StageBegan(stage=Stage(model="m", defense="d", protocol="c"), passes=2000))
    assert whole.seconds_left == pytest.approx(left + 2000 / 10)


def test_a_limit_ends_the_plan() -> None:
    an_image = sum(run_of(pass_limit=10**12).plan().values()) / 1000
    whole = run_of().plan()
    assert run_of(pass_limit=10**12).plan() == whole
    assert {*run_of().batches().values()} == {10}
    part = run_of(pass_limit=int(an_image * 100))  # of each record; batch-wise costs four times
    costs = part.plan()
    assert sum(costs.values()) == pytest.approx(2 * 100 * an_image, rel=0.05)
    assert part.batches()[stage(BATCH, "transfer")] < part.batches()[stage(DENT, "transfer")] < 10
    assert sum(costs[item] for item in costs if item.defense == BATCH.label) < an_image * 100
    done = run_of(lambda *_: 0, pass_limit=1)
    assert done.plan() == {} and {*done.batches().values()} == {10}


def test_the_text_says_when_a_limit_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = "dentbench.evaluation.estimates.duration.speed_of"
    monkeypatch.setattr(speed, lambda *_: Speed(1e-4, 2e-4))
    whole = run_of().forecast()
    assert "the limit" not in whole.text
    assert "the limit" not in run_of(time_limit=2 * whole.whole).forecast().text
    short = run_of(time_limit=90.5).forecast()
    assert short.text.endswith("; the limit ends it after about 90 s")
    assert (short + short).time_limit == short.time_limit, "models share the time"
    passes = run_of(pass_limit=int(sum(whole.passes.values()) / 10)).forecast()
    assert passes.within < 0.5 * whole.whole
    assert passes.text.endswith(f"; the limit ends it after about {duration_text(passes.within)}")
    assert "the limit" not in run_of(until=DECIDED, pass_limit=10**12).forecast().text


def test_a_decision_or_a_limit_to_come_shortens_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("dentbench.evaluation.progress.events.time.perf_counter", lambda: now[0])
    first, second = (Stage(model="m", defense="d", protocol="a", run=run) for run in "xy")
    whole = Whole()
    whole(RunPlanned(passes={first: 400.0, second: 400.0}, batches={first: 4, second: 4}))
    whole(StageBegan(stage=first, passes=100))
    now[0] = 10.0
    whole(PassesDone(passes=100))
    whole(BatchDone(done=1, batches=100, right=1, images=1))
    assert whole.seconds_left == pytest.approx(70.0)  # not 99 batches more
    whole(PlanChanged(batches={first: 2, second: 2}))
    assert whole.seconds_left == pytest.approx(50.0)  # of the second nothing is known but its plan
    assert whole.share == pytest.approx(1 / 6)
    whole(StageBegan(stage=first, passes=100))
    now[0] = 20.0
    whole(PassesDone(passes=100))
    whole(BatchDone(done=2, batches=100, right=1, images=1))
    assert whole.seconds_left == pytest.approx(40.0)  # a grid's next value is ahead
    whole(RunPlanned(passes={first: 400.0}, time_limit=35.0))
    now[0] = 40.0  # after checks, whose time says nothing of that of passes
    whole(StageBegan(stage=first, passes=400))
    now[0] = 50.0
    whole(PassesDone(passes=100))
    assert whole.seconds_left == pytest.approx(5.0) and whole.share == pytest.approx(2 / 3)
    whole(RunPlanned(passes={first: 400.0}))
    now[0] = 900.0
    whole(StageBegan(stage=first, passes=400))
    now[0] = 910.0
    whole(PassesDone(passes=100))
    assert whole.seconds_left == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("changes", "own", "asked"),
    [
        ({}, {"mode": None, "defense": None, "lr": None}, True),
        ({"quiet": True, "workers": "1", "device": "cpu"}, {}, True),
        ({"model": ["digits-robust"]}, {}, False),
        ({"attack": "quick"}, {}, False),
        ({"examples": 8}, {}, False),
        ({"dry_run": True}, {}, False),
        ({}, {"mode": "batch"}, False),
        ({}, {"lr": 0.02}, False),
    ],
)
def test_a_first_look_is_what_names_nothing_to_run(
    changes: dict[str, Any], own: dict[str, Any], asked: bool
) -> None:
    shared = SharedOptions(**changes)
    assert first_look.is_asked_for(shared, own) is asked
    short = first_look.shortened(shared)
    assert (short.attack, short.until, short.batch_size) == ("quick", "decided", first_look.BATCH)


@pytest.mark.parametrize(("together", "alone", "used"), [(1.0, 2.0, 2), (100.0, 2.0, 1)])
def test_speed_is_that_of_the_quicker_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, together: float, alone: float, used: int
) -> None:
    threads, timed_with = [2], []

    def timed(*_: Any) -> tuple[float, float]:
        timed_with.append(threads[-1])
        seconds = together if threads[-1] == 2 else alone
        return seconds, 3 * seconds

    monkeypatch.setattr(duration, "_timed", timed)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    images = torch.zeros(4, 1, 2, 2)
    worker: Any = SimpleNamespace(
        model=SimpleNamespace(network=None),
        inputs=SimpleNamespace(images=images),
        counter=CallCounter(),
    )
    speed = speed_of(worker, 4)
    assert speed == Speed(min(together, alone) / 4, 2 * min(together, alone) / 4)
    assert timed_with[-1] == used and threads[-1] == 2
