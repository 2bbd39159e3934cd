"""Random defenses with known truth: expectations must come out, and chance condemns nobody."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dentbench.records.chance import chance_columns, expected
from dentbench.records.outcome import NATURAL

DRAWS = 10


def drawn(
    share: np.ndarray, generator: np.random.Generator, draws: int = DRAWS
) -> list[list[bool]]:
    """Draws of images right with a probability of their own each."""
    flags: list[list[bool]] = (generator.random((DRAWS, len(share))) < share).tolist()
    return flags


def test_without_chance_it_is_the_worst_case() -> None:
    generator = np.random.default_rng(0)
    rows = generator.random((4, 50)) < 0.7
    stages = {f"stage {k}": [row.tolist()] * 3 for k, row in enumerate(rows)}
    assert expected(stages).tolist() == rows.all(axis=0).tolist()
    alone = {name: flags[:1] for name, flags in stages.items()}
    assert expected(alone).tolist() == rows.all(axis=0).tolist()


def test_equal_protocols_are_their_mean_however_many() -> None:
    """The least of many noisy means falls with their number; the estimate does not."""
    generator = np.random.default_rng(1)
    share = np.full(2000, 0.8)
    for count in (1, 14):
        stages = {f"stage {k}": drawn(share, generator) for k in range(count)}
        assert abs(float(expected(stages).mean()) - 0.8) < 0.015
        least = np.min([np.mean(draws, axis=0) for draws in stages.values()], axis=0).mean()
        assert (least < 0.6) == (count == 14), "what the estimate is not"


def test_a_protocol_that_is_worse_is_found() -> None:
    generator = np.random.default_rng(2)
    stages = {f"stage {k}": drawn(np.full(2000, 0.9), generator) for k in range(12)}
    stages["worse"] = drawn(np.full(2000, 0.1), generator)
    assert abs(float(expected(stages).mean()) - 0.1) < 0.02


def random_one_time_in_ten(
    robust: float, n: int, generator: np.random.Generator, stages: int = 12
) -> dict[str, list[list[bool]]]:
    """A defense of a robust accuracy that answers one of ten classes by chance one time in ten."""
    kept = generator.random(n) < robust
    share = np.where(kept, 0.9 + 0.01, 0.01)
    result = {f"stage {k}": drawn(share, generator) for k in range(stages)}
    return {NATURAL: drawn(np.full(n, 0.91), generator), **result}


def static(robust: float, n: int, generator: np.random.Generator) -> dict[str, list[bool]]:
    flags: list[bool] = (generator.random(n) < robust).tolist()
    return {NATURAL: [True] * n, "published": flags}


def test_a_network_that_is_truly_more_robust_is_not_condemned_for_its_chance() -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        columns = chance_columns(
            random_one_time_in_ten(0.9, 96, generator), static(0.62, 96, generator)
        )
        gain = json.loads(columns["chance"])["gain"]
        assert gain["mean"] > 0 and columns["gained"] - columns["lost"] > 0
        assert columns["robust_correct"] - columns["static_correct"] == (
            columns["gained"] - columns["lost"]
        )


def test_the_columns_name_the_mean_the_worst_and_the_majority() -> None:
    stages = {
        NATURAL: [[True, True, True]] * 4,
        "published": [[True, True, False], [True, True, False], [True, False, False], [True] * 3],
    }
    columns = chance_columns(stages, {NATURAL: [True] * 3, "published": [True, False, False]})
    chance = json.loads(columns["chance"])
    assert chance["draws"] == 4
    assert (chance["robust"]["worst"], chance["robust"]["majority"]) == (1, 2)
    assert chance["natural"]["mean"] == 3 == columns["natural_correct"]
    assert chance["static"]["mean"] == 1 == columns["static_correct"]
    assert chance["robust"]["low"] < chance["robust"]["mean"] < chance["robust"]["high"]
    assert chance["robust"]["mean"] == pytest.approx(1 + 3 / 4 + 1 / 4, abs=0.3)


def test_of_equal_truths_few_differ_by_the_test() -> None:
    """The defense is the static model but for chance that costs nothing on average."""
    generator = np.random.default_rng(4)
    rounds, beyond = 400, {"gain": 0, "loss": 0}
    for _ in range(rounds):
        share = generator.random(96)
        stages = {NATURAL: drawn(np.ones(96), generator)}
        stages |= {f"stage {k}": drawn(share, generator) for k in range(3)}
        flags = (generator.random(96) < share).tolist()
        columns = chance_columns(stages, {NATURAL: [True] * 96, "published": flags})
        gain = json.loads(columns["chance"])["gain"]
        if gain["p"] < 0.05:
            beyond["gain" if gain["mean"] > 0 else "loss"] += 1
    assert max(beyond.values()) <= 0.025 * rounds + 3 * (0.025 * rounds) ** 0.5
