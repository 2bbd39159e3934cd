"""Images that share batches: by how much their counts vary more than those of independent ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from dentbench.attacks import checks
from dentbench.records.outcome import NATURAL, WORST, Record
from dentbench.records.stopping import stopped
from dentbench.report.numbers import LEVEL, Paired, PairedMeans, RepeatedPaired, Share
from dentbench.stats import (
    LEAST_BATCHES,
    DesignEffect,
    batch_effect,
    paired_design_effect,
    share_design_effect,
)
from dentbench.stats.sequential import few_batches

INDEPENDENT: Final = DesignEffect(1.0, 0)
"""The design effect of images that do not share batches."""


def share(record: Record, name: str) -> Share:
    """Return a record's share right, its interval widened where images share batches.

    ``name``: "natural", "worst" or a protocol that was run.
    """
    counts = {NATURAL: record.natural_correct, WORST: record.robust_correct}
    count = counts[name] if name in counts else record.protocol_counts[name]
    return Share(count, record.n, _effect(record, name).divisor)


def worst_per_batch(record: Record) -> Share | None:
    """Return the worst case per batch; None where it is not known, or there is but one batch.

    Of a single batch the attacker of the batch is the attacker of every image in it.
    """
    if record.batch_worst_correct is None or len(_sizes(record)) < 2:
        return None
    return Share(record.batch_worst_correct, record.n)


def paired(record: Record) -> Paired | None:
    """Return images gained and lost against the static model; None where nothing was compared."""
    if record.gained is None or record.lost is None or not record.n:
        return None
    counts = (record.gained, record.lost, record.n)
    early = stopped(record)
    level = LEVEL / 2 if early is None or early.level is None else early.level
    gain = json.loads(record.chance).get("gain") if record.chance else None
    if isinstance(gain, dict) and gain.keys() == {"mean", "low", "high", "p"}:
        return PairedMeans(*counts, **gain, level=level)
    if early is not None:
        return RepeatedPaired(*counts, repeated_effect(record, level), level)
    return Paired(*counts, paired_effect(record).divisor)


def repeated_effect(record: Record, level: float) -> float:
    """Return the design effect of a record's difference at a look of a one-sided level.

    1 for images that are, or were measured to be, independent of their batch mates; infinite for
    others in fewer batches than it can be estimated from.
    """
    if record.separable or measured_independent(record):
        return 1.0
    counts, sizes = _counts(record), _sizes(record)
    few = few_batches(level, len(sizes))
    if math.isinf(few) or not {"gained", "lost"} <= counts.keys():
        return math.inf
    return few * batch_effect(counts["gained"], counts["lost"], sizes)


def paired_effect(record: Record) -> DesignEffect:
    """Return the design effect of a record's difference to its static model."""
    if not record.by_batch:
        return _unknown(record)
    return _paired_effect(record.by_batch, _sizes(record)) or _unknown(record)


@lru_cache(maxsize=1 << 12)
def _paired_effect(by_batch: str, sizes: tuple[int, ...]) -> DesignEffect | None:
    counts = _fitting(by_batch, len(sizes))
    if not {"gained", "lost"} <= counts.keys():
        return None
    return paired_design_effect(counts["gained"], counts["lost"], sizes)


def _effect(record: Record, name: str) -> DesignEffect:
    if not record.by_batch:
        return _unknown(record)
    return _share_effect(record.by_batch, name, _sizes(record)) or _unknown(record)


@lru_cache(maxsize=1 << 12)
def _share_effect(by_batch: str, name: str, sizes: tuple[int, ...]) -> DesignEffect | None:
    counts = _fitting(by_batch, len(sizes))
    return share_design_effect(counts[name], sizes) if name in counts else None


def _unknown(record: Record) -> DesignEffect:
    return INDEPENDENT if record.separable else DesignEffect(None, len(_sizes(record)))


def measured_independent(record: Record) -> bool:
    """Return whether an image's answer was measured not to depend on its batch mates."""
    check = checks.from_json(record.checks).get(checks.SEPARABLE)
    return bool(check and check.passed and check.value is not None and check.value <= checks.SAME)


def text(record: Record) -> str:
    """Say by how much intervals and p were widened, or why not; "" for independent images."""
    if record.separable:
        return ""
    effect = paired_effect(record)
    if effect.value is None and effect.batches >= LEAST_BATCHES:
        return "no design effect: the record has no counts of its batches"
    if effect.value is None:
        few = f"{effect.batches} batch" + ("" if effect.batches == 1 else "es")
        return f"no design effect can be estimated from {few}, fewer than {LEAST_BATCHES}"
    return f"design effect {effect.value:.2g} of {effect.batches} batches"


def caption(record: Record) -> str:
    """Say how the intervals of a record allow for its batches; "" for independent images."""
    if record.separable or record.gained is None:
        return ""
    return (
        f"Images share batches: {text(record)}; intervals and p allow for it (Rao and Scott 1992)."
        if paired_effect(record).value is not None
        else f"Images share batches: {text(record)}; intervals and p take them for independent."
    )


def _counts(record: Record) -> Mapping[str, list[int]]:
    """Return the counts of every batch by what is counted; none where they do not fit."""
    return _fitting(record.by_batch or "{}", len(_sizes(record)))


@lru_cache(maxsize=1 << 10)
def _fitting(text: str, batches: int) -> Mapping[str, list[int]]:
    """Return the lists of so many counts of the column ``by_batch``, and nothing else of it."""
    return {
        name: counts
        for name, counts in json.loads(text).items()
        if isinstance(counts, list)
        and len(counts) == batches
        and all(type(count) is int for count in counts)
    }


def _sizes(record: Record) -> tuple[int, ...]:
    """Return the sizes of the batches that images share."""
    if record.batching != "declared":
        return (record.n,)
    return _batch_sizes(record.n, record.batch_size)


@lru_cache
def _batch_sizes(images: int, size: int) -> tuple[int, ...]:
    whole, rest = divmod(images, size)
    return (size,) * whole + (rest,) * bool(rest)
