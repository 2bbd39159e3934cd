"""Where nobody says by how many workers, there are as many as are faster, and the same answers."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dentbench.evaluation import stage_outcomes
from dentbench.evaluation.workers import worker_count
from dentbench.evaluation.workers.placement import Placement
from dentbench.evaluation.workers.worker_count import with_worker_count
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DentSpec, EvalSpec
from tests.helpers import Net, all_stored, spec_of

ASKED = Placement(workers="auto")
ALONE = Placement()


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores on which threads gain nothing, a run is always worth a start, and much memory."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(worker_count, "seconds_by_workers", lambda *_: {1: 1.0, 2: 1.0, 4: 1.0})
    monkeypatch.setattr(worker_count, "machine", lambda: 2**40)
    monkeypatch.setattr(worker_count, "WORTH", 0)


def worker(need: int | None = 2**20) -> Any:
    """The questions to a worker, for 3 images of each batch."""
    return SimpleNamespace(
        inputs=SimpleNamespace(images=torch.zeros(9, 3, 6, 6)),
        network=None,
        classes=10,
        counter=SimpleNamespace(uncounted=nullcontext),
        model=SimpleNamespace(need=lambda _, stage: need if stage != "unrolled" else 2**36),
    )


def settled(
    asked: Placement = ASKED,
    batch: int = 3,
    protocols: tuple[str, ...] = ("published",),
    attack: AttackSpec | None = None,
    **changes: Any,
) -> Placement:
    attack = attack or AttackSpec(name="quick", eps=Fraction(1, 50))
    static = spec_of(None, attack=attack, batches=BatchPlan(size=batch))
    static = replace(static, data=replace(static.data, count=9))
    specs: list[EvalSpec] = [static, replace(static, defense=DentSpec(steps=2))]
    return with_worker_count(asked, worker(**changes), specs, protocols, Path())


@pytest.mark.usefixtures("four_cores")
def test_the_cores_are_shared_out_where_that_is_faster() -> None:
    assert settled(batch=2) == Placement(workers=4, threads=1)  # 5 batches
    assert settled(batch=3) == Placement(workers=3, threads=1)
    assert settled(batch=5) == Placement(workers=2, threads=2)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    "asked",
    [
        Placement(workers=3),
        Placement(workers=1),
        Placement(),
        Placement(executor="ray", workers=2),
    ],
)
def test_what_is_asked_for_is_kept(asked: Placement) -> None:
    assert settled(asked) == asked


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    "changes",
    [{"devices": ("cuda:0", "cuda:1")}, {"threads": 1}, {"executor": "ray"}],
)
def test_elsewhere_there_is_one_per_device(changes: dict[str, Any]) -> None:
    assert settled(replace(ASKED, **changes)) == replace(ALONE, **changes)


@pytest.mark.usefixtures("four_cores")
def test_one_worker_is_enough_for_one_batch_and_for_a_short_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert settled(batch=9) == ALONE
    assert settled(attack=AttackSpec(name="none", eps=Fraction(0))) != ALONE
    # Natural passes alone: 9 images x (1 + 3 forwards + 2 backwards) at 1/6 s each.
    monkeypatch.setattr(worker_count, "WORTH", 9 * 6 / 6 + 1e-6)
    assert settled(attack=AttackSpec(name="none", eps=Fraction(0))) == ALONE
    assert settled() != ALONE
    monkeypatch.setattr(worker_count, "seconds_by_workers", lambda *_: {})
    assert settled() == ALONE


@pytest.mark.usefixtures("four_cores")
def test_workers_fit_into_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_count, "suspected", lambda image, count: 2**40)
    assert settled(batch=2, need=None) == ALONE
    each = worker_count.EACH + worker_count.SCRATCH * 2**20
    monkeypatch.setattr(worker_count, "machine", lambda: 2 * 4 * each)
    assert settled(batch=2).workers == 4
    monkeypatch.setattr(worker_count, "machine", lambda: 2 * 4 * each - 1)
    assert settled(batch=2).workers == 2
    assert settled(batch=2, protocols=("published", "unrolled")) == ALONE


@pytest.mark.usefixtures("four_cores")
def test_small_images_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        worker_count, "machine", lambda: 2 * 4 * (worker_count.EACH + 2 * 432 * 30_000)
    )
    assert settled(batch=2, need=2**50).workers == 4
    monkeypatch.setattr(
        worker_count, "machine", lambda: 2 * 4 * (worker_count.EACH + 2 * 432 * 30_000) - 1
    )
    assert settled(batch=2, need=2**50) == ALONE


@pytest.fixture
def auto(monkeypatch: pytest.MonkeyPatch) -> Placement:
    """A run that is shared out among two workers of one thread each, as "auto" finds."""

    def found(placement: Placement, *_: object) -> Placement:
        return replace(placement, workers=2, threads=1) if placement == ASKED else placement

    monkeypatch.setattr(stage_outcomes, "with_worker_count", found)
    return ASKED


def test_the_answers_are_those_of_one_worker(auto: Placement, serial: Any, tmp_path: Path) -> None:
    born = tmp_path / "born"
    born.mkdir()
    assert all_stored(tmp_path / "shared", auto, Net(born=born)) == serial
    assert 1 <= len({path.name for path in born.iterdir()} - {str(os.getpid())}) <= 2


@pytest.mark.parametrize("fault", ["dies", "cannot be sent"])
def test_where_others_cannot_this_process_goes_on_alone(
    fault: str, auto: Placement, serial: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody asked for workers, so that they fail is no reason to stop."""
    network = Net(tmp_path / "died", always=True)
    if fault == "cannot be sent":
        network = Net()
        network.hook = lambda x: x  # type: ignore[assignment]
    assert all_stored(tmp_path / "results", auto, network) == serial
    assert caplog.messages[-1].endswith("going on with one worker")
    assert (tmp_path / "died").exists() is (fault == "dies")
