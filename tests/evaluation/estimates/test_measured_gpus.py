"""Times told for a GPU that is not at hand: scaled from the committed figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.evaluation.estimates import measured_gpus
from dentbench.evaluation.memory.footprint import HEAVY, memory_kind
from dentbench.records.outcome import NATURAL
from tests.gpu import speeds

IMAGE = torch.zeros(1, 3, 32, 32)


def test_operations_are_those_of_convolutions_and_products() -> None:
    some = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8192, 10)
    )
    assert measured_gpus.operations(some, IMAGE) == 2 * (32 * 32 * 8 * 3 * 9 + 8192 * 10)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_measured_network_has_its_own_time(precision: str) -> None:
    figures = json.loads(speeds.SOURCE.read_text())
    timed = figures[f"ResNet-20, batch 128, 6 steps, {precision}"]["seconds"]
    seconds = timed["graphs, attack gradient"] / (7 * 2 * 128)
    actual = measured_gpus.forecast("h200", precision, speeds.NETWORKS["ResNet-20"](), IMAGE)
    overhead = measured_gpus.figures()["overhead"]
    assert actual.speed.forward == pytest.approx(seconds * overhead, rel=1e-3)
    assert actual.speed.backward == actual.speed.forward
    assert "ResNet-20 as measured on an NVIDIA H200" in actual.source


def test_another_is_scaled_by_its_arithmetic_and_a_small_one_is_not() -> None:
    wide, narrow, tiny = (
        nn.Conv2d(3, channels, 33, padding=16, bias=False) for channels in (500, 400, 1)
    )
    times = [measured_gpus.forecast("h200", "fp32", item, IMAGE).speed for item in (wide, narrow)]
    assert times[0].forward / times[1].forward == pytest.approx(500 / 400)
    smallest = measured_gpus.forecast("h200", "fp32", tiny, IMAGE)
    assert "times 1.00 for this network's arithmetic" in smallest.source
    assert "ResNet-20" in smallest.source


def test_the_committed_file_is_made_of_the_committed_figures() -> None:
    assert Path(speeds.FILE).read_text() == speeds.text()


def test_memory_is_measured_once_for_stages_that_take_the_same() -> None:
    kinds = {name: memory_kind(name) for name in (NATURAL, *PROTOCOLS)}
    assert set(kinds.values()) == {"answers", "gradient", "unrolled", "gmsa"}
    assert {name for name, kind in kinds.items() if kind in ("unrolled", "gmsa")} == set(HEAVY)
