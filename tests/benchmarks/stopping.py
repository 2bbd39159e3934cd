"""How often a run that stops when its verdict is decided is wrong, and how many images it needs.

Each run draws paired differences with a known mean, image by image or in batches that share an
effect, and is looked at after every batch by the functions that the runner itself stops by. Every
check passed and all that ``holds`` requires was run, so that the statistics alone decide. Beside
it: what the fixed-size rule says of all the images, and runs *in turn*, whose second protocol takes
points away that the first left, and is run where the first shows a gain.
Run ``python -m tests.benchmarks stopping``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dentbench.report.numbers import LEVEL
from dentbench.report.verdict import GAIN_POINTS
from dentbench.stats import least_batches, mcnemar, paired_difference, t_quantile
from dentbench.stats.sequential import few_batches, levels, score, will_lose

SEED: Final = 20
RUNS: Final = 10_000
GAINS: Final = (-10, -5, 0, 2, 5, 10, 20)
"""True gains, in points."""

TAKEN: Final = 5
"""Points of a gain that a second protocol takes away, where two are run in turn."""

RULES: Final = ("until decided", "in turn", "fixed size")
FALSE: Final = ("false holds", "false weaker than static", "false no gain")

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """``batches`` of ``size`` images; ``noise``: the share that is gained or lost by luck alone.

    ``shared``: how much of it a batch decides as a whole (0: each image for itself); ``whole``:
    whether a batch decides all of that one way, instead of evenly between both.
    """

    batches: int
    size: int
    noise: float
    shared: float = 0.0
    whole: bool = False


WORLDS: Final = {
    "1,024 images in 8 batches, each on its own": World(8, 128, 0.10),
    "1,024 images in 8 batches, each on its own, few differ": World(8, 128, 0.01),
    "1,000 images in 50 batches, each on its own": World(50, 20, 0.10),
    "256 images in 4 batches, each on its own": World(4, 64, 0.05),
    "1,024 images in 8 coupled batches": World(8, 128, 0.10, 0.5),
    "1,024 images in 16 coupled batches": World(16, 64, 0.10, 0.8),
    "1,024 images in 16 coupled batches, all or nothing": World(16, 64, 0.10, 1.0, whole=True),
    "10,000 images in 79 coupled batches": World(79, 127, 0.10, 0.8),
    "2,048 images in 4 coupled batches, all or nothing": World(4, 512, 0.30, 1.0, whole=True),
    "3,072 images in 6 coupled batches, all or nothing": World(6, 512, 0.30, 1.0, whole=True),
    "8,192 images in 16 coupled batches, all or nothing": World(16, 512, 0.30, 1.0, whole=True),
}


def draw(
    world: World, gain: float, runs: int, generator: np.random.Generator
) -> tuple[Counts, ...]:
    """Return the images gained and lost of every run and batch, each (runs, batches)."""
    shape = (runs, world.batches)
    up, down = world.noise / 2 + max(gain, 0.0), world.noise / 2 + max(-gain, 0.0)
    effect = generator.uniform(-1, 1, shape)
    if world.whole:
        effect = np.sign(effect)
    shift = world.shared * world.noise / 2 * effect
    gained = generator.binomial(world.size, up + shift)
    lost = generator.binomial(world.size - gained, (down - shift) / (1 - up - shift))
    return gained, lost


def effects(gained: Counts, lost: Counts, size: int) -> NDArray[np.float64]:
    """Return the design effect of every run, not yet widened for few batches and at least 1.

    The same as ``stats.paired_design_effect`` estimates, of all runs at once.
    """
    batches = gained.shape[1]
    total = batches * size
    gap = (gained - lost).sum(1) / total
    rate = (gained + lost).sum(1) / total
    independent = rate - gap**2
    residuals = ((gained - lost - gap[:, None] * size) ** 2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = batches / (batches - 1) * residuals / (total * independent)
    return np.where(independent > 0, np.maximum(ratio, 1.0), 1.0)


def exact(up: NDArray[np.float64], down: NDArray[np.float64], effect: Any) -> NDArray[np.float64]:
    """Return McNemar's exact p of every run."""
    triples = np.stack(np.broadcast_arrays(up, down, effect), 1)
    unique, where = np.unique(triples, axis=0, return_inverse=True)
    values = [mcnemar(int(item), int(other), float(by)) for item, other, by in unique]
    return np.array(values)[where.ravel()]


def sequential(
    world: World, gained: Counts, lost: Counts, holds_from: Counts | None = None
) -> tuple[NDArray[Any], Counts]:
    """Return the verdict of every run that stops when it is decided, and its images.

    ``holds_from``: after how many batches a run may hold; by default after any.
    """
    runs = len(gained)
    may_hold = np.zeros(runs, dtype=int) if holds_from is None else holds_from
    said = np.full(runs, "undecided", dtype=object)
    images = np.full(runs, world.batches * world.size)
    every = levels([world.size] * world.batches)
    by_images = {look * world.size: level for look, level in every.items()}
    for look, level in every.items():
        going = np.flatnonzero(said == "undecided")
        if (world.shared and look < least_batches(level)) or not len(going):
            continue
        up, down = gained[going, :look], lost[going, :look]
        effect: Any = 1.0
        if world.shared:
            effect = effects(up, down, world.size) * few_batches(level, look)
        kinds = decided(up.sum(1), down.sum(1), look * world.size, effect, level)
        more = will_lose(up.sum(1), down.sum(1), look * world.size, effect, by_images)
        kinds[(kinds == "no gain") & more] = "undecided"
        kinds[(kinds == "holds") & (look < may_hold[going])] = "undecided"
        said[going] = kinds
        images[going[kinds != "undecided"]] = look * world.size
    return said, images


def in_turn(world: World, first: Sequence[Counts], both: Sequence[Counts]) -> NDArray[Any]:
    """Return the verdicts of runs whose second protocol is run where the first shows a gain.

    ``first``, ``both``: images gained and lost under the first, and under both. The second is
    looked at after every batch from the first on, and holds on no fewer than showed the gain.
    """
    alone, images = sequential(world, *first)
    together, _ = sequential(world, *both, holds_from=images // world.size)
    return np.where((alone == "holds") | (alone == "undecided"), together, alone)


def decided(up: Counts, down: Counts, total: int, effect: Any, level: float) -> NDArray[Any]:
    """Return the verdicts at one look."""
    p = exact(up, down, effect)
    n = total / effect
    z = {at: score(up / effect, down / effect, n, at) for at in (0.0, GAIN_POINTS / 100)}
    least = abs(quantile(level))
    kinds = np.full(len(up), "undecided", dtype=object)
    kinds[z[GAIN_POINTS / 100] < -least] = "no gain"
    kinds[(z[0.0] < -least) & (p < 2 * level)] = "weaker than static"
    kinds[(z[0.0] > least) & (p < 2 * level)] = "holds"
    return kinds


def quantile(level: float) -> float:
    """Return the normal quantile of a one-sided level."""
    return NormalDist().inv_cdf(level)


def fixed(world: World, gained: Counts, lost: Counts) -> NDArray[Any]:
    """Return the verdict of the fixed-size rule on all images of every run."""
    if world.shared and world.batches < least_batches():
        return np.full(len(gained), "undecided", dtype=object)
    up, down, total = gained.sum(1), lost.sum(1), world.batches * world.size
    effect: Any = np.ones(len(up))
    if world.shared:
        effect = effects(gained, lost, world.size)
        effect = effect * (t_quantile(0.95, world.batches - 1) / abs(quantile(0.025))) ** 2
    p = exact(up, down, effect)
    cases = zip(up / effect, down / effect, total / effect, strict=True)
    high = np.array([paired_difference(*map(float, case))[1] for case in cases])
    said = np.full(len(up), "undecided", dtype=object)
    said[100 * high < GAIN_POINTS] = "no gain"
    said[(p < LEVEL) & (up < down)] = "weaker than static"
    said[(p < LEVEL) & (up > down)] = "holds"
    return said


def shares(said: NDArray[Any]) -> dict[str, float]:
    """Return the share of every verdict."""
    kinds, counts = np.unique(said.astype(str), return_counts=True)
    return {str(kind): float(count) / len(said) for kind, count in zip(kinds, counts, strict=True)}


def false(gain: int, said: dict[str, Any]) -> dict[str, float]:
    """Return how often a verdict was wrong, which is bounded."""
    return {
        "false holds": said.get("holds", 0.0) if gain <= 0 else 0.0,
        "false weaker than static": said.get("weaker than static", 0.0) if gain >= 0 else 0.0,
        "false no gain": said.get("no gain", 0.0) if gain >= GAIN_POINTS else 0.0,
    }


def cell(name: str, gain: int, runs: int = RUNS) -> dict[str, Any]:
    """Return what runs of one world and gain say, until decided and of a fixed size."""
    world = WORLDS[name]
    generator = np.random.default_rng((SEED, list(WORLDS).index(name), gain + 100))
    counts = draw(world, gain / 100, runs, generator)
    said, images = sequential(world, *counts)
    whole = fixed(world, *counts)
    gained, lost = counts
    more = gained + generator.binomial(np.maximum(world.size - gained - lost, 0), TAKEN / 100)
    turns = shares(in_turn(world, (more, lost), counts))
    until = {**shares(said), "mean images": round(float(images.mean()), 1)}
    full = {**shares(whole), "images": world.batches * world.size}
    return {
        "until decided": {**until, **false(gain, until)},
        "in turn": {**turns, **false(gain, turns)},
        "fixed size": {**full, **false(gain, full)},
        "same verdict": float(np.mean(said == whole)),
    }


def measure(runs: int = RUNS) -> dict[str, Any]:
    """Return every cell, with the seed, the runs and the worst shares."""
    cells = {name: {f"{g:+d}": cell(name, g, runs) for g in GAINS} for name in WORLDS}
    worst = {
        rule: {
            kind: max(item[rule][kind] for world in cells.values() for item in world.values())
            for kind in FALSE
        }
        for rule in RULES
    }
    return {"seed": SEED, "runs": runs, "worst": worst, "cells": cells}
