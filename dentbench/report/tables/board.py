"""The board: every defense by its own published protocol, in the worst case, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from dentbench.defenses.catalogue import DEFENSES
from dentbench.records.outcome import NATURAL, PUBLISHED, WORST, Record, eps_of
from dentbench.records.stopping import stopped
from dentbench.report import coupling, departures
from dentbench.report.numbers import LEVEL, Points, Share
from dentbench.report.pairing import Pair
from dentbench.report.table import Cell, Column, Table
from dentbench.report.verdict import GAIN_POINTS
from dentbench.stats import holm

COLUMNS: Final = (
    Column("model"),
    Column("defense"),
    Column("natural", "right"),
    Column("own protocol"),
    Column("accuracy", "right", "published"),
    Column("minus static", "right", "published"),
    Column("protocol", "left", "worst"),
    Column("accuracy", "right", "worst"),
    Column("minus static", "right", "worst"),
    Column("verdict"),
    Column("cost", "right"),
    Column("claim"),
)

NOTES: Final = (
    "Own protocol: that of the defense's paper, at its budget here; minus static: the difference "
    "to the static model under its own attack, as a paper would report it.",
    "Worst: right without an attack and under every protocol that was run; minus static: images "
    "gained and lost against the static model's worst case of equal effort, paired.",
    "Verdict: as of one evaluation, but a difference, and that a gain of 5 points is excluded, "
    "count if they are significant among all of the model's (Holm 1979), and are undecided else.",
    "Cost: passes through the network, forward and backward, for an image's answer; the static "
    "model's is 1. Passes through networks of a defense's own, as diffpure's, are not counted.",
)


EARLY: Final = (
    "A run that stops as soon as its verdict is decided runs cheap protocols first: the protocol "
    "of the paper is missing where no gain called for it, and so may be the last images."
)


@dataclass(frozen=True)
class Entry:
    """A pair on the board, and the verdict on it among all of its model and attack."""

    pair: Pair
    kind: str


def entries(pairs: Sequence[Pair]) -> list[Entry]:
    """Return the pairs with their verdicts corrected for how many there are (Holm 1979).

    Of pairs of the same model, data set and attack, a difference in a verdict ("holds", "weaker
    than static") is undecided unless its adjusted p-value is below the level, and so is "no gain"
    unless the gain that it excludes is excluded among all of them. Both are corrected by
    themselves: a board errs in either with the chance of one evaluation. Of a run that may stop,
    p-values count in units of the level of its look.
    """
    kinds: dict[int, str] = {}
    for group in by_model(pairs):
        differ = holm([_at_level(pair, pair.verdict.p_value) for pair in group])
        exclude = holm([_at_level(pair, _exclusion(pair)) for pair in group])
        for pair, different, excluded in zip(group, differ, exclude, strict=True):
            kind = pair.verdict.kind
            p_value = {"no gain": excluded, "undecided": 0.0}.get(kind, different)
            kinds[id(pair)] = "undecided" if p_value >= LEVEL else kind
    return [Entry(pair, kinds[id(pair)]) for pair in pairs]


def _at_level(pair: Pair, p_value: float) -> float:
    """Return a p-value as it counts at the fixed level, where its look has another."""
    return min(1.0, p_value * LEVEL / (2 * coupling.level_of(pair.defended)))


def _exclusion(pair: Pair) -> float:
    """Return the two-sided p-value of a gain of :data:`GAIN_POINTS`, of the normal interval."""
    low, high = pair.verdict.gain_low, pair.verdict.gain_high
    if high <= low or high - low >= 2 * 100:
        return 1.0
    normal = NormalDist()
    deviate = -normal.inv_cdf(coupling.level_of(pair.defended)) / ((high - low) / 2)
    return min(1.0, 2 * normal.cdf(-deviate * (GAIN_POINTS - (low + high) / 2)))


def by_model(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Return the pairs of each model, data set and attack, in order."""
    groups: dict[tuple[object, ...], list[Pair]] = {}
    for pair in pairs:
        record = pair.defended
        key = (record.model, record.data_sha256, record.norm, record.eps, record.attack)
        groups.setdefault(key, []).append(pair)
    return list(groups.values())


def largest_static(group: Sequence[Pair]) -> Record:
    """Return the static record of most images: runs that stop early judge fewer."""
    return max((pair.static for pair in group), key=lambda record: record.n)


def board(pairs: Sequence[Pair]) -> Table:
    """Return one row per defense, the static model's first, of each model and attack."""
    rows: list[list[object]] = []
    captions: list[str] = []
    for group in by_model(pairs):
        static = largest_static(group)
        captions.append(_caption(static))
        rows.append(_static_row(static))
        rows += [_row(entry) for entry in entries(group)]
    return Table.of(
        "Board of built-in defenses",
        COLUMNS,
        rows,
        caption=" ".join(("Accuracy in percent.", *captions)),
        notes=(*NOTES, *([EARLY] if any(stopped(pair.defended) for pair in pairs) else [])),
        stub=1,
    )


def _caption(static: Record) -> str:
    threat = departures.threat_text(static.norm, eps_of(static))
    return (
        f"{static.model}: {static.dataset}, {static.n:,} images, {threat}, {static.attack_label}."
    )


def _static_row(static: Record) -> list[object]:
    notes = departures.attack_notes(static)
    robust = Cell(coupling.share(static, WORST), notes)
    natural = coupling.share(static, NATURAL)
    return [static.model, "static model", natural, PUBLISHED, robust, *[None] * 5, "1", None]


def _row(entry: Entry) -> list[object]:
    defended = entry.pair.defended
    own = departures.published_protocol(defended)
    published: Share | None = None
    minus: Points | None = None
    if own in defended.protocol_counts:
        published = coupling.share(defended, own)
        minus = Points(published.percent - _static_published(entry.pair).percent)
    notes = departures.attack_notes(defended)
    return [
        defended.model,
        _title(defended),
        coupling.share(defended, NATURAL),
        own,
        None if published is None else Cell(published, notes),
        minus,
        defended.worst_protocol,
        Cell(coupling.share(defended, WORST), notes),
        coupling.paired(defended),
        entry.kind,
        cost(defended),
        claim(defended),
    ]


def _static_published(pair: Pair) -> Share:
    """Return what the static model's own attack leaves right of the images of the defense.

    The static record may have more: a run that stops early judges the first of them.
    """
    static, defended = pair.static, pair.defended
    faced = json.loads(defended.static_by_protocol or "{}")
    if PUBLISHED in faced:
        return Share(faced[PUBLISHED], defended.n)
    return Share(static.robust_correct, static.n)


def _title(record: Record) -> str:
    """Return a defense's name, and its settings where they are not the default."""
    odd = departures.settings_text(record) if record.mode != departures.OTHER else ""
    return ", ".join(filter(None, (departures.defense_title(record), odd)))


def cost(record: Record) -> str:
    """Return the passes through the network for an image's answer, "" where they are unknown."""
    passes = json.loads(record.passes or "{}").get(NATURAL)
    return "" if passes is None else f"{passes / record.n:.3g}"


def claim(record: Record) -> str:
    """Return what its paper says of a built-in defense, and the source."""
    if record.defense not in DEFENSES:
        return ""
    card = DEFENSES[record.defense]
    return f"{card.claim} ({card.source})"
