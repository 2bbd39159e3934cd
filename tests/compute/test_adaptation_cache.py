"""Adaptations to images seen before: handed out again, and counted as if they were made."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dentbench import Dent, DentSpec
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.compute import adaptation_cache
from dentbench.compute.adaptation_cache import AdaptationCache, CachedAdaptation
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.runner import Evaluation
from dentbench.spec.evaluation import ProtocolSpec
from tests.compute.networks import attacked_network, network
from tests.helpers import compared


class Work:
    """Doubles its input, which takes two passes, and counts how often it did so."""

    def __init__(self) -> None:
        self.counter = CallCounter()
        self.done = 0

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        self.done += 1
        self.counter.add(2 * len(x), len(x))
        return 2 * x, x.sum(0)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def once(work: Work) -> CachedAdaptation:
    return CachedAdaptation(work, work.counter, AdaptationCache())


def images(seed: int = 0, count: int = 3) -> Tensor:
    return torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def test_work_is_done_once_more_to_see_that_it_finds_the_same(
    work: Work, once: CachedAdaptation
) -> None:
    with once.adaptations:
        for turn, done in enumerate((1, 2, 2, 2)):
            actual = once(images())
            assert work.done == done
            assert torch.equal(actual[0], 2 * images()) and len(actual) == 2
            assert (work.counter.forwards, work.counter.backwards) == (6 * turn + 6, 3 * turn + 3)
        once(images(1))
        once(images(1))
    assert work.done == 3


def test_only_the_very_same_images_are_a_repetition(work: Work, once: CachedAdaptation) -> None:
    x = images()
    others = [x[:2], x.to(memory_format=torch.channels_last), x.double(), x.flip(0), x + 1e-7]
    with once.adaptations:
        for given in (x, x, *others):
            assert torch.equal(once(given)[0], 2 * given)
    assert work.done == 2 + len(others)


def test_images_that_are_changed_afterwards_are_others(work: Work, once: CachedAdaptation) -> None:
    x = images()
    with once.adaptations:
        once(x)
        once(x)
        x[0] += 1
        assert torch.equal(once(x)[0], 2 * x)
        x[0] -= 1
        done = work.done
        once(images())
    assert work.done == done == 3


def test_work_that_finds_something_else_is_always_done(work: Work) -> None:
    def random(x: Tensor) -> tuple[Tensor, ...]:
        return (work(x)[0] + torch.rand(()),)

    once = CachedAdaptation(random, work.counter, AdaptationCache())
    with once.adaptations:
        actual = [once(images())[0] for _ in range(4)]
    assert work.done == 4
    assert not any(torch.equal(actual[0], item) for item in actual[1:])
    assert work.counter.forwards == 4 * 6


def test_outside_the_block_all_work_is_done(work: Work, once: CachedAdaptation) -> None:
    with once.adaptations:
        once(images())
        once(images())
    once(images())
    once(images())
    assert work.done == 4
    with once.adaptations:
        once(images())
    assert work.done == 4  # the finding lasts from one batch to the next


def test_what_was_not_asked_for_longest_goes_where_there_is_no_room(
    work: Work, once: CachedAdaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2 * images().nbytes + images()[0].nbytes
    monkeypatch.setattr(adaptation_cache, "ROOM", 2 * size)
    with once.adaptations:
        for seed in (0, 0, 1, 0, 2):  # 2 comes in the place of 1
            once(images(seed))
        done = work.done
        once(images(0))
        once(images(2))
        assert work.done == done
        once(images(1))
        assert work.done == done + 1
        many = images(3, count=99)
        once(many)
        once(many)
        assert work.done == done + 2  # the last one has room always


def test_nothing_is_kept_after_an_error(work: Work, once: CachedAdaptation) -> None:
    with pytest.raises(RuntimeError), once.adaptations:
        once(images())
        once(images())
        raise RuntimeError("out of memory")
    with once.adaptations:
        once(images())
    assert work.done == 3


def test_a_copy_keeps_nothing_of_it() -> None:
    memory = AdaptationCache()
    counter = CallCounter()
    dent = Dent(
        CountedNetwork(network(), counter),
        DentSpec(steps=1),
        recorded=lambda work, _: CachedAdaptation(work, counter, memory),
    )
    with memory:
        answers = [dent(images()) for _ in range(3)]
        other = copy.deepcopy(dent)
        assert torch.equal(other(images()), answers[0])
    assert all(torch.equal(answer, answers[0]) for answer in answers)


@pytest.mark.parametrize(
    "defense",
    [
        DentSpec(steps=2, lr=0.05, loss="entropy"),
        DentSpec(steps=2, lr=0.05, mode="batch", statistics="batch"),
        DentSpec(steps=1, delta="none", blur="dynamic"),
    ],
    ids=["separable", "coupled", "blurred"],
)
def test_a_run_that_repeats_nothing_leaves_the_same_records(
    defense: DentSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adaptations = 0
    descend = Dent._descend

    def counting(self: Dent, x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal adaptations
        adaptations += 1
        return descend(self, x)

    monkeypatch.setattr(Dent, "_descend", counting)

    def run(results: Path) -> tuple[list[dict[str, Any]], list[tuple[bool, ...]], int]:
        nonlocal adaptations
        adaptations = 0
        few = ProtocolSpec(queries=10)
        subject, static = attacked_network(6, iterations=2, protocols=few)
        spec = replace(static, defense=defense)
        evaluation = Evaluation(subject, RunOptions(results=results))
        protocols = ("published", "bpda", "scores")
        records = evaluation.run([static, spec], protocols)
        kept = [compared(record) for record in records]
        outcomes = (outcome for stage in protocols for outcome in evaluation.outcomes(spec, stage))
        return kept, [outcome.judged for outcome in outcomes], adaptations

    *actual, fewer = run(tmp_path / "once")
    monkeypatch.setattr(AdaptationCache, "__enter__", lambda self: None)
    *right, all_of_them = run(tmp_path / "always")
    assert actual == right
    assert fewer < 0.95 * all_of_them


def test_the_size_kept_is_that_of_the_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is kept, replaced and forgotten, and without adding up all entries each time."""
    monkeypatch.setattr(adaptation_cache, "ROOM", 100)
    cache = AdaptationCache()
    for number, size in enumerate((3, 5, 40, 3, 60, 2, 7, 90, 1, 4)):
        entry = adaptation_cache._Entry(torch.zeros(size, dtype=torch.int8), (), (1, 1))
        cache.keep((number % 4,), entry)
        assert cache._size == sum(item.size for item in cache._entries.values())
        assert cache._size <= 100 or len(cache._entries) == 1
    with pytest.raises(MemoryError), cache:
        raise MemoryError
    assert cache._size == 0
