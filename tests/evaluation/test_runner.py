"""The runner: records, resuming, checkpoints and refusals, on a network of 3x5x5 images."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks.base import ThreatModel, judge, margins
from dentbench.attacks.catalogue import DEFAULT_PROTOCOLS
from dentbench.compute.adaptation_cache import AdaptationCache
from dentbench.errors import DataError, ModelError, StoreError
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.progress.events import BatchDone, Event, PassesDone, StageBegan
from dentbench.evaluation.rounds import Reached, Rounds
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.schedule import Schedule
from dentbench.evaluation.workers.judging import judge_in_batches
from dentbench.records import results_csv
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import NATURAL, BatchOutcome, Record
from dentbench.spec.evaluation import (
    NORMS,
    AttackSpec,
    BatchPlan,
    DentSpec,
)
from tests.attacks.toys import attacked, small_network, tiny_images
from tests.helpers import (
    ATTACK,
    COUNT,
    DENT,
    DENT_ALONE,
    SIZE,
    compared,
    evaluated,
    outcomes,
    spec_of,
    subject,
)


class Calls(list[int]):
    """How many calls were made, shared with the copies that dent makes of a network."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Calls:
        return self


class Counting(nn.Module):
    """A network whose calls are counted; ``fail`` is called at each, and may raise."""

    def __init__(self, network: nn.Module, fail: Callable[[int], None] = lambda _: None) -> None:
        super().__init__()
        self.network = network
        self.calls = Calls([0])
        self.fail = fail

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        self.fail(self.calls[0])
        logits: Tensor = self.network(x)
        return logits


@pytest.fixture(scope="module")
def first_calls(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The calls of every process before its first batch: to choose how to compute the network."""
    network = Counting(small_network())
    Evaluation(subject(COUNT, network), RunOptions(results=tmp_path_factory.mktemp("none")))
    return network.calls[0]


# --- records --------------------------------------------------------------------------------------


def test_a_static_and_a_dent_record_are_written(tmp_path: Path) -> None:
    static, dent = evaluated(tmp_path)
    assert results_csv.read(tmp_path) == [static, dent]
    assert (static.mode, static.protocol, static.steps) == ("static", "published", None)
    assert (dent.mode, dent.protocol, dent.steps) == ("instance", "published transfer", 1)
    for record in (static, dent):
        assert (record.n, record.count, record.seed) == (COUNT, COUNT, 4)
        assert record.attack_label.endswith("(not AutoAttack)")
        assert 0 < record.robust_correct < record.natural_correct < COUNT + 1
    assert static.natural_correct == COUNT - 1
    with (tmp_path / "results.csv").open() as file:
        assert len(list(csv.reader(file))) == 3


def test_a_rerun_appends_nothing_and_calls_nothing(
    finished: Path, whole: tuple[list[Record], Path, int], first_calls: int
) -> None:
    before = (finished / "results.csv").read_bytes()
    network = Counting(small_network())
    again = evaluated(finished, network=network)
    assert network.calls == [first_calls]
    assert (finished / "results.csv").read_bytes() == before
    assert_same(finished, again, whole)


def test_a_dynamic_record_needs_no_static_record_first(tmp_path: Path) -> None:
    """With and without a protocol that uses the static model's points."""
    (both,) = evaluated(tmp_path / "a", [spec_of()])
    (transfer,) = evaluated(tmp_path / "b", [spec_of()], protocols=["transfer"])
    expected = evaluated(tmp_path / "c")[1]
    assert compared(both) == compared(expected)
    assert transfer.protocol_counts == {"transfer": expected.protocol_counts["transfer"]}


def test_the_counts_are_those_of_the_outcomes(tmp_path: Path) -> None:
    """Counted again from the files, image by image."""
    specs = [spec_of(None), spec_of()]
    static, dent = evaluated(tmp_path, specs)
    flags: dict[tuple[int, str], list[bool]] = {}
    back: dict[tuple[int, str], list[bool]] = {}
    sides = [(0, NATURAL), (0, "published"), (1, NATURAL), (1, "published"), (1, "transfer")]
    for side, stage in sides:
        folder = RunFolder(tmp_path, specs[side])
        loaded = [folder.load(stage, unit) for unit in range(3)]
        flags[side, stage] = [right for outcome in loaded if outcome for right in outcome.correct]
        back[side, stage] = [
            right for record in loaded if record for right in record.static_correct
        ]
    right, gained, lost, static_right = [0, 0], 0, 0, 0
    for image in range(COUNT):
        ours = all(flags[1, stage][image] for stage in (NATURAL, "published", "transfer"))
        theirs = flags[0, NATURAL][image] and flags[0, "published"][image]
        right[0] += theirs
        right[1] += ours
        # The defense's adversarial points are shown to the static model as well.
        theirs = theirs and all(back[1, stage][image] for stage in ("published", "transfer"))
        static_right += theirs
        gained += ours and not theirs
        lost += theirs and not ours
    assert [static.robust_correct, dent.robust_correct] == right
    assert (dent.static_correct, dent.gained, dent.lost) == (static_right, gained, lost)
    assert (static.gained, static.lost) == (None, None)


@pytest.mark.parametrize("norm", NORMS)
def test_our_judgement_is_made_afresh_on_points_of_the_ball(norm: str, tmp_path: Path) -> None:
    """Every stored flag is found again with the stored points; the last batch has one image."""
    eps = {"Linf": Fraction(1, 50), "L2": Fraction(1, 10), "L1": Fraction(1, 2)}[norm]
    spec = spec_of(DENT, attack=replace(ATTACK, norm=norm, eps=eps))
    evaluated(tmp_path, [spec], save_adversarial=True)
    given = subject()
    evaluation = Evaluation(given, RunOptions(results=tmp_path))
    for item in (replace(spec, defense=None), spec):
        defense = evaluation.classifier(item)
        for stage in ("published", "transfer") if item.defense else ("published",):
            for unit, rows in enumerate(item.batches.ranges(COUNT)):
                clean, labels = (
                    given.images[rows.start : rows.stop],
                    given.labels[rows.start : rows.stop],
                )
                outcome = RunFolder(tmp_path, item).load(stage, unit)
                points = torch.from_numpy(RunFolder(tmp_path, item).load_points(stage, unit))
                assert outcome is not None and len(points) == len(rows)
                assert ThreatModel.of(item.attack).contains(points, clean).all()
                assert judge(defense, points, labels).tolist() == list(outcome.correct)
                assert outcome.labels == tuple(labels.tolist()) and outcome.indexes == (*rows,)
                moved = (points - clean).double().flatten(1)
                for order, norms in ((math.inf, outcome.linf), (2, outcome.l2), (1, outcome.l1)):
                    expected = moved.norm(order, dim=1).tolist()
                    assert norms == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("norm", ["L1", "Linf"])
def test_transfer_judges_the_static_points_survivors_included(norm: str, tmp_path: Path) -> None:
    """In L1 those alone; in Linf those of the static model's largest margin where they do more."""
    eps = {"L1": Fraction(1, 2), "Linf": Fraction(1, 50)}[norm]
    spec = spec_of(attack=replace(ATTACK, norm=norm, eps=eps))
    evaluated(tmp_path, [spec], save_adversarial=True)
    given = subject()
    defense = Evaluation(given, RunOptions(results=tmp_path)).classifier(spec)
    moved = further = 0
    for unit, rows in enumerate(spec.batches.ranges(COUNT)):
        static = RunFolder(tmp_path, replace(spec, defense=None))
        points = static.load_points("published", unit)
        handed = RunFolder(tmp_path, spec).load_points("transfer", unit)
        if norm == "L1":
            assert np.array_equal(points, handed)
        else:
            x, labels = (given.images[rows.start : rows.stop], given.labels[rows.start : rows.stop])
            natural = RunFolder(tmp_path, spec).load(NATURAL, unit)
            assert natural is not None
            right = torch.tensor(natural.correct)[:, None, None, None]
            first = torch.where(right, torch.from_numpy(points), x)
            both = torch.from_numpy(handed), first
            wrong, before = (int((~judge(defense, item, labels)).sum()) for item in both)
            assert wrong >= before
            beyond, reached = (margins(given.network(item), labels) for item in both)
            other = (both[0] != first).flatten(1).any(1)
            assert (beyond >= reached)[other].all()
            further += int(other.sum())
        outcome = static.load("published", unit)
        assert outcome is not None
        for row, image in enumerate(rows):
            if outcome.broken_by[row] == "":  # a survivor
                assert not np.array_equal(points[row], given.images[image].numpy())
                moved += 1
            if outcome.broken_by[row] == "natural":
                assert np.array_equal(points[row], given.images[image].numpy())
    assert moved > 0 and (further > 0) == (norm == "Linf")


# --- interruption ---------------------------------------------------------------------------------


class Stop:
    """A progress that is interrupted at the end of the n-th batch."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, event: Event) -> None:
        self.at -= isinstance(event, BatchDone)
        if self.at == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], Path, int]:
    """An uninterrupted run: its records, its folder and how many calls it took."""
    results, network = tmp_path_factory.mktemp("whole"), Counting(small_network())
    return evaluated(results, network=network), results, network.calls[0]


@pytest.fixture
def finished(tmp_path: Path, whole: tuple[list[Record], Path, int]) -> Path:
    """A copy of the folder of the uninterrupted run."""
    shutil.copytree(whole[1], tmp_path / "finished")
    return tmp_path / "finished"


def assert_same(results: Path, records: Sequence[Record], whole: tuple[Any, Path, int]) -> None:
    assert [compared(record) for record in records] == [compared(record) for record in whole[0]]
    assert [compared(record) for record in results_csv.read(results)] == [
        compared(record) for record in whole[0]
    ]
    assert outcomes(results) == outcomes(whole[1])
    assert not list(results.rglob("*.tmp"))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
def test_a_run_interrupted_in_the_network_resumes(
    share: float, tmp_path: Path, whole: tuple[list[Record], Path, int]
) -> None:
    last = 2 + int(share * (whole[2] - 3))

    def interrupt(calls: int) -> None:
        if calls == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, network=Counting(small_network(), interrupt))
    assert_same(tmp_path, evaluated(tmp_path), whole)


def test_a_run_interrupted_after_every_batch_resumes(
    tmp_path: Path,
    whole: tuple[list[Record], Path, int],
    first_calls: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """15 batches (3 of 5 stages) one process each; none computes a batch again."""
    # A process knows the adaptations that it made itself, so others would make some again.
    monkeypatch.setattr(AdaptationCache, "__enter__", lambda self: None)
    at_once = Counting(small_network())
    evaluated(tmp_path / "at once", network=at_once)
    calls = interruptions = 0
    while True:
        network = Counting(small_network())
        try:
            records = evaluated(tmp_path / "resumed", network=network, progress=Stop(1))
            break
        except KeyboardInterrupt:
            interruptions += 1
        finally:
            calls += network.calls[0] - first_calls
    assert interruptions == 15
    assert calls == at_once.calls[0] - first_calls
    assert_same(tmp_path / "resumed", records, whole)


def test_a_stochastic_defense_resumes_and_reruns_the_same(tmp_path: Path) -> None:
    class Dithered(Counting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.02 * torch.randn_like(x))

    def run(folder: str, caller_seed: int, at: int | None = None) -> list[Record]:
        torch.manual_seed(caller_seed)
        progress = None if at is None else Stop(at)
        network = Dithered(small_network())
        return evaluated(tmp_path / folder, [spec_of(None)], network, progress)

    expected = run("a", 1)
    assert [compared(record) for record in run("b", 2)] == [compared(record) for record in expected]
    for at in (2, 2):
        with pytest.raises(KeyboardInterrupt):
            run("c", at, at)
    assert [compared(record) for record in run("c", 3)] == [compared(record) for record in expected]
    assert outcomes(tmp_path / "a") == outcomes(tmp_path / "b") == outcomes(tmp_path / "c")


def test_the_callers_random_state_and_network_are_left_alone(tmp_path: Path) -> None:
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    attack = replace(ATTACK, name="fab-t")  # it calls backward, which leaves gradients behind
    evaluated(tmp_path, [spec_of(None, attack=attack), spec_of(attack=attack)], network)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


# --- fresh, more images, damage -------------------------------------------------------------------


def test_fresh_computes_everything_again(
    finished: Path, whole: tuple[list[Record], Path, int]
) -> None:
    folder = RunFolder(finished, spec_of())
    truth = folder.load("transfer", 1)
    assert truth is not None
    folder.save(replace(truth, correct=tuple(not right for right in truth.correct)), None)
    network = Counting(small_network())
    records = evaluated(finished, network=network, fresh=True)
    assert network.calls[0] == whole[2]
    assert_same(finished, records, whole)


def test_a_shorter_run_equals_the_first_batches_of_a_longer_one(tmp_path: Path) -> None:
    short, long = ([spec_of(None, count), spec_of(DENT, count)] for count in (6, 9))
    evaluated(tmp_path, short)
    evaluated(tmp_path, long)
    for ours, theirs in zip(short, long, strict=True):
        assert ours.key() != theirs.key()
        for stage in (NATURAL, "published", "transfer") if ours.defense else (NATURAL, "published"):
            for unit in range(2):
                first, second = (
                    RunFolder(tmp_path, spec).load(stage, unit) for spec in (ours, theirs)
                )
                assert first is not None and second is not None
                assert replace(first, seconds=0) == replace(second, seconds=0)


@pytest.mark.parametrize("stage", [NATURAL, "published", "transfer"])
def test_a_damaged_outcome_is_set_aside_and_redone(
    stage: str,
    finished: Path,
    whole: tuple[list[Record], Path, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = finished / "runs" / spec_of().key() / stage / "00001.npz"
    path.write_bytes(path.read_bytes()[:-20])
    records = evaluated(finished)
    assert "is corrupt" in caplog.text
    assert path.with_suffix(".corrupt").exists()
    assert_same(finished, records, whole)


def test_damaged_points_are_told_and_the_next_run_redoes_them(
    finished: Path, whole: tuple[list[Record], Path, int]
) -> None:
    RunFolder(finished, spec_of()).clear()
    path = finished / "runs" / spec_of(None).key() / "published" / "00000.npz"
    damaged = bytearray(path.read_bytes())
    with np.load(path) as archive:
        middle = damaged.index(b"points.npy") + len(archive["points"].tobytes()) // 2
    damaged[middle] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match="is corrupt; run again"):
        evaluated(finished)
    assert_same(finished, evaluated(finished), whole)


def test_adversarial_images_are_kept_for_every_protocol_where_asked(tmp_path: Path) -> None:
    kept = {}
    for save in (False, True):
        evaluated(tmp_path, save_adversarial=save)
        kept[save] = {
            name.split("/")[1:][0][:4] + " " + name.split("/")[2]
            for name, (_, points) in outcomes(tmp_path).items()
            if points
        }
    static, dent = (spec.key()[:4] for spec in (spec_of(None), spec_of()))
    assert kept[True] == {f"{static} published", f"{dent} published", f"{dent} transfer"}
    assert f"{static} published" in kept[False] and f"{dent} published" not in kept[False]


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("defense", [None, DENT_ALONE])
def test_a_separable_defense_may_be_attacked_in_parts_of_batches(
    defense: DentSpec | None, tmp_path: Path
) -> None:
    """Alone among its survivors or among all its mates: an image's answer is the same."""
    spec, given = spec_of(defense), subject()
    assert spec.separable
    classifier = Evaluation(given, RunOptions(results=tmp_path)).classifier(spec)
    attack = AttackSpec(name="plus", eps=Fraction(1, 50), iterations=2, queries=5)
    parts, whole = (
        attacked(classifier, given.images, given.labels, attack, whole=flag)[0]
        for flag in (False, True)
    )
    assert torch.equal(parts.robust, whole.robust)
    assert parts.broken_by == whole.broken_by
    torch.testing.assert_close(parts.points, whole.points, rtol=0, atol=1e-4)


def test_a_separable_defense_answers_the_same_in_batches_of_any_size(tmp_path: Path) -> None:
    spec, given = spec_of(DENT_ALONE), subject()
    classifier = Evaluation(given, RunOptions(results=tmp_path)).classifier(spec)
    alone = torch.cat([classifier(image[None]) for image in given.images])
    torch.testing.assert_close(classifier(given.images), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("defense", "all_sizes"),
    [(DENT, {1, 3}), (DentSpec(mode="batch", steps=1), {1, 3}), (DENT_ALONE, {1, 2, 3})],
    ids=["instance", "batch", "separable"],
)
def test_a_coupled_defense_sees_declared_batches_only(
    defense: DentSpec, all_sizes: set[int], tmp_path: Path
) -> None:
    """Batches of 3, 3 and 1, although an image of the first is wrong from the start."""
    sizes: set[int] = set()

    class Witness(Counting):
        def forward(self, x: Tensor) -> Tensor:
            sizes.add(len(x))
            return super().forward(x)

    evaluation = Evaluation(subject(network=Witness(small_network())), RunOptions(results=tmp_path))
    sizes.clear()
    for stage in (NATURAL, "published"):
        evaluation.outcomes(spec_of(defense), stage)
    assert sizes == all_sizes


def test_autoattacks_own_packing_is_one_unit_judged_in_batches(tmp_path: Path) -> None:
    plan = BatchPlan(size=SIZE, batching="autoattack")
    static, dent = evaluated(tmp_path, [spec_of(None, batches=plan), spec_of(batches=plan)])
    assert (dent.batching, dent.batch_size, dent.n) == ("autoattack", SIZE, COUNT)
    files = {name.split("/", 2)[2] for name in outcomes(tmp_path)}
    assert files == {f"{stage}/00000.npz" for stage in (NATURAL, "published", "transfer")}
    assert static.natural_correct == COUNT - 1


def test_judging_in_batches_shows_the_declared_batches() -> None:
    shown: list[Tensor] = []

    def classify(x: Tensor) -> Tensor:
        shown.append(x)
        return torch.eye(5)[torch.zeros(len(x)).long()]

    x = tiny_images(7)
    flags, answers = judge_in_batches(classify, x, torch.tensor([0, 0, 1, 0, 2, 0, 0]), 3)
    assert bool(answers.all())
    assert flags.tolist() == [True, True, False, True, False, True, True]
    assert all(torch.equal(a, b) for a, b in zip(shown, x.split(3), strict=True))


# --- progress -------------------------------------------------------------------------------------


def test_progress_never_runs_beyond_what_was_announced(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []

    def listener(event: Event) -> None:
        match event:
            case StageBegan(stage=stage, passes=passes):
                heard.append((str(stage), passes, 0))
            case PassesDone(passes=passes):
                title, announced, before = heard[-1]
                assert before < passes <= announced
                heard[-1] = (title, announced, passes)
            case BatchDone(done=done, batches=batches, right=right, images=images):
                assert 1 <= done <= batches == 3 and 0 <= right <= images <= COUNT

    evaluated(tmp_path, progress=listener)
    a_round = [
        "small instance natural",
        "small static published",
        "small instance transfer",
        "small instance published",
    ]
    assert [title for title, *_ in heard] == ["small static natural", *(3 * a_round)]
    assert all(done > 0 for *_, done in heard)


# --- refusals -------------------------------------------------------------------------------------


def test_logits_that_are_not_finite_leave_nothing_behind(
    tmp_path: Path, whole: tuple[list[Record], Path, int]
) -> None:
    class Fragile(Counting):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits if self.calls[0] < whole[2] // 4 else logits * torch.nan

    with pytest.raises(ModelError, match=r"answered with NaN|dent diverges: its loss is nan"):
        evaluated(tmp_path, network=Fragile(small_network()))
    assert not (tmp_path / "results.csv").exists()
    kept, complete = outcomes(tmp_path), outcomes(whole[1])
    assert kept and all(complete[name] == content for name, content in kept.items())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"labels": torch.full((COUNT,), 5)},
            DataError,
            "label 5 is in the data, but .* 5 classes",
        ),
        ({"labels": torch.full((COUNT,), -1)}, DataError, "label -1 is in the data"),
        ({"images": tiny_images(COUNT, shape=(1, 5, 5))}, ModelError, "images of shape .1, 5, 5."),
        ({"images": tiny_images(COUNT, shape=(3, 6, 6))}, ModelError, "images of shape .3, 6, 6."),
        ({"network": nn.Flatten(0)}, ModelError, "does not answer with logits"),
        ({"images": tiny_images(4)}, DataError, "7 images are asked for, but 4 are there"),
        ({"images": tiny_images(9)}, DataError, "7 images are asked for, but 9 are there"),
        ({"network": nn.Sequential(nn.Flatten(), nn.Linear(75, 5))}, ModelError, "no BatchNorm2d"),
        (
            {"network": small_network(1), "labels": torch.zeros(COUNT).long()},
            ModelError,
            "1 class;",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    given = replace(subject(), **changes)
    with pytest.raises(error, match=words):
        Evaluation(given, RunOptions(results=tmp_path)).run([spec_of()], DEFAULT_PROTOCOLS)
    assert not (tmp_path / "results.csv").exists()


def test_outcomes_are_frozen_values(tmp_path: Path) -> None:
    evaluation = Evaluation(subject(), RunOptions(results=tmp_path))
    actual = evaluation.outcomes(spec_of(None), NATURAL)
    assert all(isinstance(outcome, BatchOutcome) for outcome in actual)
    assert [outcome.index for outcome in actual] == [0, 1, 2]
    assert actual == evaluation.outcomes(spec_of(None), NATURAL)


@pytest.mark.parametrize(
    ("defenses", "shares"),
    [((DENT,), [100]), ((DENT, replace(DENT, steps=0)), [50, 100]), ((), [100])],
)
def test_a_static_model_that_goes_with_its_defenses_takes_no_share_of_the_time(
    defenses: tuple[DentSpec, ...],
    shares: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each share is of what is left then; the first of two takes no time here."""
    given: list[float] = []
    carry_out = Rounds.carry_out

    def noted(rounds: Rounds) -> Reached:
        assert rounds.seconds is not None
        given.append(rounds.seconds)
        return carry_out(rounds)

    monkeypatch.setattr(Rounds, "carry_out", noted)
    schedule = Schedule(time_limit=100.0)
    monkeypatch.setattr(Schedule, "seconds_left", property(lambda self: self.time_limit))
    options = RunOptions(results=tmp_path, schedule=schedule)
    specs = [spec_of(None), *map(spec_of, defenses)]
    Evaluation(subject(), options).run(specs, ["published"])
    assert given == shares
