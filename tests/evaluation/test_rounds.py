"""Rounds: the order of the work, when a run stops, and that its record is the same however."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.checks import INDISPENSABLE, PLANTED, Check, to_json
from dentbench.attacks.required_budgets import REQUIRED
from dentbench.attacks.stage_order import LAST, MEASURED, cheap_first
from dentbench.errors import SpecError
from dentbench.evaluation.progress.events import BatchDone, Event, RoundDone
from dentbench.evaluation.rounds import Reached, Rounds
from dentbench.evaluation.schedule import DECIDED, Schedule
from dentbench.evaluation.stage_outcomes import LimitReachedError
from dentbench.records.outcome import NATURAL, BatchOutcome, Record
from dentbench.records.stopping import stopped
from dentbench.report.verdict import verdict
from dentbench.spec.evaluation import BatchPlan, DataSpec, DentSpec
from dentbench.stats.sequential import level_of_look, levels, look_batches, spent
from tests.benchmarks import stage_order
from tests.helpers import compared, evaluated, outcomes, spec_of
from tests.report.fixed_records import make

ALL = ("published", "transfer", "warm", "bpda", "scores", "decision")
BATCHES, SIZE = 10, 100
LEVELS = levels([SIZE] * BATCHES)
SPEC = replace(
    spec_of(DentSpec(loss="entropy")),
    data=DataSpec(name="noise", sha256="0", first=0, count=BATCHES * SIZE),
    batches=BatchPlan(size=SIZE),
)
_MADE = to_json(Check(name, True, 0.0, "it passed") for name in (*INDISPENSABLE, PLANTED))


@dataclass
class World:
    """Rounds without a network: each protocol lets the defense gain and lose so many of 100 images.

    ``gained`` and ``lost`` by protocol; the worst protocol run decides. ``asked``: what was carried
    out, stage by stage; ``passes``: of a stage on a batch.
    """

    gained: dict[str, int]
    lost: dict[str, int] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)
    on_stage: Callable[[str], None] = lambda _: None
    progress: Callable[[Event], Any] | None = None
    batches_at_a_time: int = 1
    computed: int = 0
    asked: list[tuple[str, int]] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)
    may_begin: Callable[[], bool] = lambda: True

    def outcomes(self, spec: Any, stage: str, first: int) -> list[BatchOutcome]:
        if spec.defense is None or self.reached.get(stage, 0) >= first:
            return []
        self.asked.append((stage, first))
        for done in range(self.reached.get(stage, 0), first):
            if not self.may_begin():
                raise LimitReachedError
            self.on_stage(stage)
            self.computed += 1
            self.reached[stage] = done + 1
        return []

    @contextmanager
    def asking(self, may_begin: Callable[[], bool]) -> Iterator[None]:
        self.may_begin = may_begin
        try:
            yield
        finally:
            self.may_begin = lambda: True

    def stored(self, stages: Sequence[tuple[Any, str]], first: int) -> list[BatchOutcome]:
        return [
            BatchOutcome(
                stage=stage,
                index=unit,
                correct=(),
                attack_correct=(),
                broken_by=(),
                forwards=self.passes.get(stage, 0),
                backwards=0,
                seconds=0.0,
            )
            for spec, stage in stages
            if spec.defense is not None
            for unit in range(min(first, self.reached.get(stage, 0)))
        ]

    def draft(self, reached: Reached, thorough: bool) -> Record:
        images = reached.batches * SIZE
        run = reached.protocols
        gained = min(self.gained.get(name, 0) for name in run) * reached.batches
        lost = max(self.lost.get(name, 0) for name in run) * reached.batches
        base = images // 2
        counts = dict.fromkeys(run, base + gained - lost)
        return make(
            2,
            images,
            counts,
            n=images,
            count=BATCHES * SIZE,
            batch_size=SIZE,
            mode="instance",
            steps=6,
            loss="entropy",
            checks=_MADE,
            static_checks=_MADE,
            budgets=json.dumps(REQUIRED),
            gained=gained,
            lost=lost,
            static_correct=base,
            stopped=None if reached.stopped is None else reached.stopped.to_json(),
        )

    def rounds(
        self, protocols: Sequence[str] = ALL, seconds: float | None = None, **how: Any
    ) -> Rounds:
        given: Any = self
        return Rounds(given, SPEC, protocols, Schedule(**how), self.draft, seconds)


# --- the order ------------------------------------------------------------------------------------


def test_every_protocol_comes_after_those_it_starts_from_and_published_last() -> None:
    order = cheap_first([*PROTOCOLS])
    assert sorted(order) == sorted(PROTOCOLS) and order[-1] == LAST
    for name, card in PROTOCOLS.items():
        assert all(order.index(earlier) < order.index(name) for earlier in card.after)
    assert cheap_first(["published", "transfer", "a.b:c@1234"]) == [
        *("a.b:c@1234", "transfer", "published")
    ]


def test_the_order_is_what_was_measured() -> None:
    path = Path("results/benchmarks/stage-order-cpu.json")
    measured = json.loads(path.read_text())["measured"]
    assert [*MEASURED] == measured["order"] == stage_order.ordered(measured["by_mode"])


def test_a_round_runs_every_protocol_on_its_batches_before_the_next_begins() -> None:
    world = World(dict.fromkeys(ALL, 0))
    reached = world.rounds(rounds=4).carry_out()
    order = [NATURAL, *cheap_first(ALL)]
    assert world.asked == [(stage, end) for end in (4, 8, 10) for stage in order]
    assert reached == Reached(BATCHES, ALL)


# --- stopping -------------------------------------------------------------------------------------


def test_no_gain_is_decided_by_the_cheap_protocols_on_some_images() -> None:
    world = World(dict.fromkeys(ALL, 1), {"transfer": 1})
    reached = world.rounds(until=DECIDED).carry_out()
    assert {stage for stage, _ in world.asked} == {NATURAL, "transfer"}
    assert reached.batches < BATCHES
    assert reached.stopped is not None
    assert (reached.stopped.rule, reached.stopped.images) == (DECIDED, reached.batches * SIZE)


def test_a_gain_is_believed_only_after_every_protocol_on_every_image_judged() -> None:
    world = World(dict.fromkeys(ALL, 30))
    reached = world.rounds(until=DECIDED).carry_out()
    assert set(reached.protocols) == set(ALL) and reached.batches < BATCHES
    assert all(world.reached[name] == reached.batches for name in ALL)


@pytest.mark.parametrize("breaker", ["bpda", "decision", "published"])
def test_a_gain_that_a_later_protocol_takes_away_is_never_held(breaker: str) -> None:
    world = World({**dict.fromkeys(ALL, 30), breaker: 0}, {breaker: 1})
    reached = world.rounds(until=DECIDED).carry_out()
    record = world.draft(reached, True)
    static = make(1, record.n, {"published": record.n // 2}, n=record.n, count=record.count)
    assert verdict(static, record).kind == "no gain"
    run = cheap_first(ALL)
    later = run[run.index(breaker) + 1 :]
    assert not {*later} & {stage for stage, _ in world.asked}


def test_a_protocol_that_takes_a_gain_away_may_decide_on_fewer_images_than_showed_the_gain() -> (
    None
):
    events: list[Event] = []
    world = World({**dict.fromkeys(ALL, 0), "transfer": 4}, {"transfer": 1}, progress=events.append)
    reached = world.rounds(until=DECIDED).carry_out()
    told = [event for event in events if isinstance(event, RoundDone)]
    gain = next(event for event in told if event.next_protocol)
    assert gain.next_protocol == "warm" and reached.protocols == ("transfer", "warm")
    assert told[-1].images == reached.batches * SIZE < gain.images
    assert world.reached["warm"] == reached.batches < world.reached["transfer"]
    # As if it had been run with the first from the beginning.
    at_once = World(world.gained, world.lost)
    both = at_once.rounds(["transfer", "warm"], until=DECIDED)
    both._active, both._deferred = ["transfer", "warm"], []
    assert both.carry_out().batches == reached.batches


def test_a_loss_is_waited_for() -> None:
    world = World(dict.fromkeys(ALL, 0), dict.fromkeys(ALL, 5))
    reached = world.rounds(until=DECIDED).carry_out()
    assert (
        verdict(make(1, 1000, {"published": 500}, n=1000), world.draft(reached, True)).kind
        == "weaker than static"
    )


def test_what_is_never_decided_is_run_to_the_end_and_marked() -> None:
    world = World(dict.fromkeys(ALL, 9), dict.fromkeys(ALL, 6))
    reached = world.rounds(until=DECIDED).carry_out()
    assert reached.batches == BATCHES and set(reached.protocols) == set(ALL)
    assert reached.stopped is not None and reached.stopped.images == reached.stopped.of


def test_a_pass_limit_ends_after_whole_rounds_and_a_larger_one_goes_on() -> None:
    passes = {"published": 70, "transfer": 10}
    for limit, rounds in ((1, 1), (160, 2), (239, 2), (240, 3), (10**6, BATCHES)):
        world = World(dict.fromkeys(ALL, 0), passes=passes)
        reached = world.rounds(["published", "transfer"], pass_limit=limit).carry_out()
        assert reached.batches == rounds
        assert (reached.stopped is None) == (rounds == BATCHES)


def test_a_time_limit_ends_before_a_round_that_would_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("dentbench.evaluation.rounds.time.monotonic", lambda: now[0])

    def slow(stage: str) -> None:
        now[0] += 10.0 if stage == "published" else 0.0

    for seconds, rounds in ((1.0, 1), (25.0, 2), (35.0, 3)):
        now[0] = 0.0
        world = World(dict.fromkeys(ALL, 0), on_stage=slow)
        reached = world.rounds(seconds=seconds).carry_out()
        assert reached.batches == rounds
        assert reached.stopped is not None and reached.stopped.rule == "time limit"


def test_a_limit_ends_a_protocol_that_a_gain_calls_for_between_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("dentbench.evaluation.rounds.time.monotonic", lambda: now[0])

    def slow(stage: str) -> None:
        now[0] += 100.0 if stage == "warm" else 0.0

    gained = {**dict.fromkeys(ALL, 30), "bpda": 0}
    how: dict[str, Any] = {"rounds": BATCHES, "until": DECIDED}
    passes = {"transfer": 1, "warm": 100}
    whole = World(gained, passes=passes)
    ended = whole.rounds(**how).carry_out()
    for limit, rule in (({"pass_limit": 350}, "pass limit"), ({"seconds": 350.0}, "time limit")):
        now[0] = 0.0
        world = World(gained, passes=passes, on_stage=slow)
        reached = world.rounds(**how, **limit).carry_out()
        assert reached.protocols == ("transfer",) and reached.batches == BATCHES
        assert reached.stopped is not None and reached.stopped.rule == rule
        assert world.reached["warm"] == 4
        assert world.rounds(**how, **limit).carry_out().protocols == ("transfer",)
        assert world.rounds(**how).carry_out() == ended
        assert world.reached == whole.reached


@pytest.mark.parametrize("rounds", [None, 4, BATCHES])
@pytest.mark.parametrize("until", ["", DECIDED])
def test_a_limit_ends_a_round_between_its_stages(
    monkeypatch: pytest.MonkeyPatch, rounds: int | None, until: str
) -> None:
    """A round of 10 s for each of 6 protocols is neither foreseen nor run to its end."""
    now = [0.0]
    monkeypatch.setattr("dentbench.evaluation.rounds.time.monotonic", lambda: now[0])

    def slow(stage: str) -> None:
        now[0] += 10.0 * (stage != NATURAL)

    gained = {**dict.fromkeys(ALL, 9)}
    lost = dict.fromkeys(ALL, 6)
    first = 1 if until else len(ALL)
    order = cheap_first(ALL)
    for seconds, run, batches in ((5.0, 1, 1), (15.0, 2, 1), (95.0, 6, 1), (185.0, 6, 3)):
        now[0] = 0.0
        world = World(gained, lost, on_stage=slow)
        reached = world.rounds(rounds=rounds, until=until, seconds=seconds).carry_out()
        assert now[0] <= seconds + 10.0
        stop = reached.stopped
        assert stop is not None and stop.rule == "time limit" and stop.goes_on
        assert stop.images == reached.batches * SIZE and stop.level == LEVELS[reached.batches]
        if not until:
            assert reached.batches == batches and {*reached.protocols} == {*order[:run]}
        assert {*reached.protocols} >= {*order[: min(run, first)]}
        assert {*stop.not_run} == {*ALL} - {*reached.protocols}
        assert all(world.reached[name] >= reached.batches for name in reached.protocols)
        world.on_stage = lambda _: None
        whole = World(gained, lost)
        ended = whole.rounds(rounds=rounds, until=until).carry_out()
        assert world.rounds(rounds=rounds, until=until).carry_out() == ended
        assert world.reached == whole.reached


def test_a_limit_before_the_first_look_of_many_batches_excludes_next_to_nothing() -> None:
    sizes = [2] * 200
    first = look_batches(200)[0]
    assert first == 4 and level_of_look(sizes, first) == levels(sizes)[first]
    early = [level_of_look(sizes, batches) for batches in range(1, first)]
    assert early == sorted(early) and early[-1] == spent((first - 1) / 200) < 6e-6


def test_after_every_round_the_progress_says_where_the_comparison_stands() -> None:
    events: list[Event] = []
    world = World(dict.fromkeys(ALL, 2), {"transfer": 2}, progress=events.append)
    world.rounds(until=DECIDED).carry_out()
    rounds = [item for item in events if isinstance(item, RoundDone)]
    assert [item.images for item in rounds] == [SIZE * (at + 1) for at in range(len(rounds))]
    assert "after 100 of 1,000 images: static 50.0%" in str(rounds[0])
    assert "undecided: about" in str(rounds[0]) and "no gain" in str(rounds[-1])
    assert rounds[0].pending == len(ALL) - 1


def test_a_protocol_that_a_gain_calls_for_is_named_before_it_begins() -> None:
    events: list[Event | str] = []
    gained = {**dict.fromkeys(ALL, 30), "bpda": 0}
    world = World(gained, progress=events.append, on_stage=events.append)
    world.rounds(until=DECIDED).carry_out()
    named = [
        (after, event.next_protocol)
        for event, after in pairwise(events)
        if isinstance(event, RoundDone) and event.next_protocol
    ]
    order = cheap_first(ALL)
    assert named == [(name, name) for name in order[1 : order.index("bpda") + 1]]
    line = next(str(event) for event in events if isinstance(event, RoundDone))
    assert line.endswith("a gain so far; 5 protocols not yet run, next warm")


def test_a_round_that_excludes_nothing_shows_no_interval() -> None:
    begun = RoundDone(
        images=64,
        of=500,
        static=58,
        defense="instance",
        right=56,
        points=-3.125,
        low=-100.0,
        high=100.0,
        state="undecided",
        more=384,
        pending=0,
    )
    assert str(begun) == (
        "after 64 of 500 images: static 90.6%, instance's worst case 87.5%, difference -3.1 "
        "(too early for an interval), undecided: about 384 more"
    )
    assert "-3.1 (-9.0 to +4.0)" in str(replace(begun, low=-9.0, high=4.0))


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"until": "soon"}, "until is 'soon'"),
        ({"time_limit": 0.0}, "time limit"),
        ({"pass_limit": 0}, "pass limit"),
    ],
)
def test_a_bad_schedule_is_refused(how: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        Schedule(**how)


# --- a small network ------------------------------------------------------------------------------


class Stop(Exception):
    """The error that kills a run."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Any]:
    """The records and outcomes of a run by stages: one round of all batches."""
    folder = tmp_path_factory.mktemp("whole")
    records = evaluated(folder, schedule=Schedule(rounds=BATCHES))
    return [*map(compared, records)], outcomes(folder)


def test_killed_anywhere_and_limited_a_run_ends_with_the_same_record(
    tmp_path: Path, whole: tuple[list[Any], Any]
) -> None:
    generator = random.Random(20)
    limits = [Schedule(), Schedule(pass_limit=1), Schedule(until=DECIDED)]
    for schedule in limits:
        left = generator.randrange(1, 4)

        def kill(event: Event) -> None:
            nonlocal left
            left -= isinstance(event, BatchDone)
            if left == 0:
                raise Stop

        with pytest.raises(Stop):
            evaluated(tmp_path, schedule=schedule, progress=kill)
    part = evaluated(tmp_path, schedule=Schedule(pass_limit=1))
    early = stopped(part[1])
    assert early is not None and (early.rule, early.of) == ("pass limit", part[1].count)
    assert part[0].n == part[1].n == early.images < part[1].count
    assert early.low is not None and early.high is not None
    assert early.low <= verdict(*part).gain_points <= early.high
    assert "1 batch is too few for a verdict" in verdict(*part).sentence
    records = evaluated(tmp_path)
    assert [*map(compared, records)] == whole[0]
    assert outcomes(tmp_path) == whole[1]
