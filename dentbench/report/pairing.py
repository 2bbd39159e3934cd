"""Defended records beside the static ones that they were compared with, and series of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from dentbench.errors import SpecError
from dentbench.records.outcome import Record, spec_columns
from dentbench.report.tables.cells import best
from dentbench.report.verdict import Verdict, verdict
from dentbench.spec.evaluation import DataSpec, DentSpec, EvalSpec, ModelSpec


@dataclass(frozen=True)
class Pair:
    """A static and a defended record of the same images under the same attack."""

    static: Record
    defended: Record
    verdict: Verdict


def images_of(record: Record) -> tuple[object, ...]:
    """Return what a static record and its defense share: model, images, attack, threat model."""
    attack = (record.attack, record.iterations, record.queries, record.targets)
    model = (record.model_sha256, record.model_code)
    return (*model, record.data_sha256, record.norm, record.eps, *attack)


def by_images(records: Iterable[Record]) -> dict[tuple[object, ...], list[Record]]:
    """Return the records of the same images under the same attack together."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for one in records:
        groups.setdefault(images_of(one), []).append(one)
    return groups


def static_for(
    record: Record | None, statics: dict[tuple[object, ...], list[Record]]
) -> Record | None:
    """Return the best static record of a defended one's images and attack, if there is one."""
    return best(statics.get(images_of(record), ())) if record else None


def pair_up(records: Sequence[Record]) -> list[Pair]:
    """Return every defended record with the static one that it was compared with, in order.

    A defended record whose static one is not among the records is left out.
    """
    statics = by_images(one for one in records if one.mode == "static")
    pairs = []
    for defended in records:
        if defended.mode == "static":
            continue
        alike = statics.get(images_of(defended), [])
        same = [one for one in alike if _packing(one) == _packing(defended)]
        for static in reversed([*alike, *same]):
            try:
                pairs.append(Pair(static, defended, verdict(static, defended)))
            except SpecError:
                continue
            break
    return pairs


def _packing(record: Record) -> tuple[object, ...]:
    return record.batch_size, record.batching, record.seed


def _chosen() -> frozenset[str]:
    """Return the columns that were chosen for a run; all others are what it found."""
    model, data = ModelSpec(name="", sha256=""), DataSpec(name="", sha256="", first=0, count=1)
    columns = {*spec_columns(EvalSpec(model=model, data=data, defense=DentSpec()))}
    chosen = columns - {"key", "defense_title", "published_protocol"}
    return frozenset(chosen | {"defense_settings", "defense_sha256", "protocol"})


CHOSEN: Final = _chosen()
"""The columns that were chosen for a run; the others are what it found, and its key."""


def series(
    pairs: Sequence[Pair], column: str, value: Callable[[Record], Fraction | int | None]
) -> list[list[Pair]]:
    """Return the pairs that differ in one column alone, together, in order of its value.

    ``value`` gives what to sort by, None for a pair that has none. Of pairs with equal values the
    last is kept; a pair that is left alone is no series.
    """
    groups: dict[tuple[object, ...], dict[Fraction | int, Pair]] = {}
    for pair in pairs:
        columns = vars(pair.defended)
        chosen = tuple(columns[name] for name in columns if name in CHOSEN - {column})
        place = value(pair.defended)
        if place is not None:
            groups.setdefault(chosen, {})[place] = pair
    ordered = ([found[place] for place in sorted(found)] for found in groups.values())
    return [group for group in ordered if len(group) > 1]


def representatives(pairs: Sequence[Pair], grouped: Collection[Sequence[Pair]]) -> list[Pair]:
    """Return the pairs that stand for all: of each series one, and every pair of no series.

    Of a series it is the pair that most series have in common, then the last one run.
    """
    member: dict[int, int] = {}
    for group in grouped:
        for pair in group:
            member[id(pair)] = member.get(id(pair), 0) + 1
    chosen = {
        id(max(group, key=lambda pair: (member[id(pair)], pair.defended.time))) for group in grouped
    }
    return [pair for pair in pairs if id(pair) in chosen or id(pair) not in member]
