"""Widen intervals for images that share batches, whose counts vary more than independent images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

from dentbench.attacks import checks
from dentbench.records.outcome import NATURAL, WORST, Record
from dentbench.records.stopping import stopped
from dentbench.report.numbers import LEVEL, Paired, PairedMeans, RepeatedPaired, Share
from dentbench.stats import (
    DesignEffect,
    batch_effect,
    least_batches,
    paired_design_effect,
    share_design_effect,
)
from dentbench.stats.sequential import few_batches


def share(record: Record, name: str) -> Share:
    """Return a record's share right, its interval widened where images share batches.

    ``name``: "natural", "worst" or a protocol that was run.
    """
    return shares(record, [name])[name]


def shares(record: Record, names: Iterable[str]) -> dict[str, Share]:
    """Return :func:`share` of several names."""
    counts = {**record.protocol_counts, NATURAL: record.natural_correct}
    counts[WORST] = record.robust_correct
    if independent(record):
        return {name: Share(counts[name], record.n) for name in names}
    sizes = _sizes(record)
    effects = {name: _effect(record, name, sizes).divisor for name in names}
    return {name: Share(counts[name], record.n, effect) for name, effect in effects.items()}


def worst_per_batch(record: Record) -> Share | None:
    """Return the worst case per batch; None where it was not counted, or there is but one batch.

    Of a single batch the attacker of the batch is the attacker of every image in it.
    """
    if record.batch_worst_correct is None or len(_sizes(record)) < 2:
        return None
    return Share(record.batch_worst_correct, record.n)


def lost_by_choice(record: Record) -> bool:
    """Return whether a loss is of the choice among batches: no whole batch shows it.

    Per image, the worst of many batches counts, and the static model has no batches to choose
    from. With every batch at the points worst for it as a whole there is no loss then.
    """
    together = worst_per_batch(record)
    compared = record.static_correct
    return together is not None and compared is not None and together.count >= compared


def paired(record: Record) -> Paired | None:
    """Return images gained and lost against the static model; None without a comparison."""
    if record.gained is None or record.lost is None or not record.n:
        return None
    counts = (record.gained, record.lost, record.n)
    early, level = stopped(record), level_of(record)
    gain = json.loads(record.chance).get("gain") if record.chance else None
    effect = paired_effect(record)
    if isinstance(gain, dict) and gain.keys() == {"mean", "low", "high", "p"}:
        return PairedMeans(*counts, effect, **gain, level=level)
    if early is not None:
        return RepeatedPaired(*counts, effect, level)
    return Paired(*counts, effect)


def level_of(record: Record) -> float:
    """Return the one-sided level of a record's comparison: that of its look where it may stop."""
    early = stopped(record)
    return LEVEL / 2 if early is None or early.level is None else early.level


def paired_effect(record: Record) -> float:
    """Return the design effect of a record's difference to its static model, at least 1.

    1 for independent images; infinite for others in fewer batches than a verdict needs, whatever
    its kind, and where their counts are missing.
    """
    if independent(record):
        return 1.0
    if record.by_batch is None or missing_batches(record) or not has_counts(record):
        return math.inf
    if stopped(record) is None:
        return _paired_effect(record.by_batch, _sizes(record))
    counts, sizes = _counts(record), _sizes(record)
    effect = batch_effect(counts["gained"], counts["lost"], sizes)
    return few_batches(level_of(record), len(sizes)) * effect


def batches(record: Record) -> int:
    """Return the number of batches that a record's images were judged in."""
    return len(_sizes(record))


def missing_batches(record: Record) -> int:
    """Return how many batches a verdict lacks; 0 for independent images."""
    if independent(record):
        return 0
    return max(0, least_batches(level_of(record)) - batches(record))


def has_counts(record: Record) -> bool:
    """Return whether the record counts the images gained and lost in every batch."""
    return {"gained", "lost"} <= _counts(record).keys()


def independent(record: Record) -> bool:
    """Return whether images are, or were measured to be, independent of their batch mates."""
    return record.separable or measured_independent(record)


@lru_cache(maxsize=1 << 12)
def _paired_effect(by_batch: str, sizes: tuple[int, ...]) -> float:
    counts = _fitting(by_batch, len(sizes))
    return paired_design_effect(counts["gained"], counts["lost"], sizes).divisor


def _effect(record: Record, name: str, sizes: tuple[int, ...]) -> DesignEffect:
    """Return the design effect of a share right, of images that share batches of these sizes."""
    measured = _share_effect(record.by_batch, name, sizes) if record.by_batch else None
    return measured or DesignEffect(None, len(sizes))


@lru_cache(maxsize=1 << 12)
def _share_effect(by_batch: str, name: str, sizes: tuple[int, ...]) -> DesignEffect | None:
    counts = _fitting(by_batch, len(sizes))
    return share_design_effect(counts[name], sizes) if name in counts else None


def measured_independent(record: Record) -> bool:
    """Return whether an image's answer was measured not to depend on its batch mates."""
    return _measured_independent(record.checks)


@lru_cache(maxsize=1 << 12)
def _measured_independent(text: str | None) -> bool:
    check = checks.from_json(text).get(checks.SEPARABLE)
    return bool(check and check.passed and check.value is not None and check.value <= checks.SAME)


def text(record: Record) -> str:
    """Say by how much interval and p were widened, or why not; "" for independent images."""
    if independent(record):
        return ""
    if missing := missing_batches(record):
        # Of a run that may stop, as its last look asks: earlier looks ask more.
        there, least = batches(record), least_batches()
        return too_few_text(there, least if there < least else there + missing)
    if not has_counts(record):
        return "no design effect: the record has no counts of its batches"
    return f"design effect {paired_effect(record):.2g} of {batches(record)} batches"


def too_few_text(there: int, needed: int) -> str:
    """Say that a verdict needs more batches than there are."""
    few = "1 batch is" if there == 1 else f"{there} batches are"
    return (
        f"{few} too few for a verdict on images that share them: with fewer than {needed}, luck "
        "sends all of them one way too often"
    )


def more_batches(
    images: int, size: int, batching: str, there: int | None
) -> tuple[str, tuple[str, str]]:
    """Return the run to make where images are too few batches, in words and as an option.

    ``there``: the images that the data set has from the first one on, None where that is unknown.
    Smaller batches are always possible, and more images may not be there.
    """
    if batching != "declared":
        return "run --batching declared", ("--batching", "declared")
    least = least_batches()
    more, smaller = least * size, images // least
    lacking = there is not None and there < more
    if not smaller:
        words = f"take {least} images or more" if lacking else f"run --examples {more} or more"
        return words, ("--examples", str(more))
    option = ("--batch-size", str(1 << (smaller.bit_length() - 1)))
    words = f"run {' '.join(option)} if that suits it"
    if not lacking:
        words += f", or --examples {more} or more"
        words += " if there are as many" if there is None else ""
    return words, option


def caption(record: Record) -> str:
    """Say how the intervals of a record allow for its batches; "" for independent images."""
    if independent(record) or record.gained is None:
        return ""
    if not math.isinf(paired_effect(record)):
        how = "intervals and p allow for it (Rao and Scott 1992)"
    elif _effect(record, WORST, _sizes(record)).value is not None:
        how = "intervals allow for it (Rao and Scott 1992)"
    else:
        how = "intervals take them for independent"
    return f"Images share batches: {text(record)}; {how}."


def _counts(record: Record) -> Mapping[str, list[int]]:
    """Return the counts of every batch by name; none where they do not fit."""
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
