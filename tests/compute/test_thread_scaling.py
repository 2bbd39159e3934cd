"""How many workers share the cores: the fastest number, timed once, remembered."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from dentbench.compute import thread_scaling
from dentbench.compute.thread_scaling import CLEARLY, FILE, fastest, seconds_by_workers
from tests.compute.networks import network

IMAGES = torch.rand(5, 3, 6, 6)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let torch have four threads; return the numbers that are set."""
    result = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: result[-1])
    monkeypatch.setattr(torch, "set_num_threads", result.append)
    return result


@pytest.mark.parametrize(
    ("seconds", "batches", "workers"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0}, 8, 4),  # threads gain nothing
        ({1: 1.0, 2: 1.0, 4: 1.0}, 2, 2),  # no worker without a batch
        ({1: 1.0, 2: 1.0, 4: 1.0}, 1, 1),
        ({1: 1.0, 2: 2.0, 4: 4.0}, 8, 1),  # threads gain all
        ({1: 1.0, 2: 1.4, 4: 2.4}, 8, 4),  # 8, 5.6 and 4.8 seconds
        ({1: 1.0, 2: 1.4, 4: 2.4}, 6, 2),  # 6, 4.2 and 4.8: the last two batches wait
        ({1: 1.0, 2: 1.6, 4: 3.2}, 8, 1),  # 8, 6.4 and 6.4: not clearly faster
        ({1: 1.0}, 8, 1),
        ({}, 8, 1),
    ],
)
def test_the_number_that_finishes_first_is_chosen(
    seconds: dict[int, float], batches: int, workers: int
) -> None:
    assert fastest(seconds, batches) == workers


def test_what_is_faster_must_be_so_clearly() -> None:
    assert fastest({1: 1, 2: 2 * CLEARLY}, 2) == 2
    assert fastest({1: 1, 2: 2 * CLEARLY + 1e-9}, 2) == 1


def test_every_share_of_the_cores_is_timed_and_remembered(
    four_cores: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actual = seconds_by_workers(network(), IMAGES, tmp_path)
    assert list(actual) == [1, 2, 4] and all(seconds > 0 for seconds in actual.values())
    assert set(four_cores) == {4, 2, 1} and four_cores[-1] == 4
    assert list(json.loads((tmp_path / FILE).read_text()).values()) == [list(actual.values())]
    monkeypatch.setattr(thread_scaling, "_timed", None)
    assert seconds_by_workers(network(), torch.zeros_like(IMAGES), tmp_path) == actual
    monkeypatch.setattr(thread_scaling, "_timed", lambda *_: [3.0, 2.0, 1.0])
    assert seconds_by_workers(network(), IMAGES[:4], tmp_path) == {1: 3.0, 2: 2.0, 4: 1.0}


def test_an_error_leaves_the_threads_as_they_were(four_cores: list[int], tmp_path: Path) -> None:
    broken = torch.nn.Sequential(network(), torch.nn.Linear(3, 3))
    assert seconds_by_workers(broken, IMAGES, tmp_path) == {}
    assert four_cores[-1] == 4


def test_without_a_place_to_remember_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_scaling, "_timed", None)
    for cache in (None, Path(os.devnull) / "cache"):
        assert seconds_by_workers(network(), IMAGES, cache) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "no JSON"])
def test_a_damaged_memory_is_begun_anew(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_scaling, "_timed", lambda *_: [1.0])
    (tmp_path / FILE).write_text(text)
    assert seconds_by_workers(network(), IMAGES, tmp_path) == {1: 1.0}
    assert list(json.loads((tmp_path / FILE).read_text()).values()) == [[1.0]]
