"""Pair defended records with the static records of their comparisons, and order series."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from typing import Final

import numpy as np
import pandas as pd

from dentbench.errors import SpecError
from dentbench.records.frame import by_record
from dentbench.records.outcome import Record, spec_columns
from dentbench.report.verdict import Verdict, verdict
from dentbench.spec.evaluation import DataSpec, DentSpec, EvalSpec, ModelSpec


@dataclass(frozen=True)
class Pair:
    """A static and a defended record of the same images under the same attack."""

    static: Record
    defended: Record
    verdict: Verdict


IMAGES: Final = (
    *("model_sha256", "model_code", "data_sha256"),
    *("norm", "eps", "attack", "iterations", "queries", "targets"),
)
"""The columns that a static record and its defense share: model, images and attack."""

_PACKING: Final = ("batch_size", "batching", "seed")
_COMPARED: Final = ("n", "natural_correct", "robust_correct")


def matches(records: Sequence[Record]) -> pd.DataFrame:
    """Return every defended record beside the static records of its images and attack.

    One row per pair: ``defended`` and ``static`` are places in ``records``, ``packed``: whether
    both have the same batches and seed. Of static records equal in every comparison the last
    stands for all. Rows of one defended record are in ascending order of preference.
    """
    frame = by_record(records, {*IMAGES, *_PACKING, *_COMPARED, "mode", "protocol"})
    frame["protocols"] = frame.pop("protocol").str.split().str.len()
    is_static = frame.pop("mode") == "static"
    frame["place"] = range(len(records))
    alike = [name for name in frame if name not in ("place", "protocols")]
    statics = frame[is_static].drop_duplicates(alike, keep="last")
    pairs = frame[~is_static].merge(statics, on=list(IMAGES), suffixes=("", "_static"))
    equal = [pairs[name] == pairs[f"{name}_static"] for name in _PACKING]
    return pd.DataFrame(
        {
            "defended": pairs["place"],
            "static": pairs["place_static"],
            "packed": np.logical_and.reduce(equal),
            "n": pairs["n_static"],
            "protocols": pairs["protocols_static"],
        }
    ).sort_values(["defended", "packed", "static"])


def best_statics(records: Sequence[Record]) -> dict[int, Record]:
    """Return the best static record of each defended record's images and attack, by its ``id``.

    It is the record on most images, then of most protocols, then the latest, as of
    :func:`~dentbench.report.tables.cells.best`. A defended record that has none is left out.
    """
    ranked = matches(records).sort_values(["n", "protocols", "static"])
    best = ranked.drop_duplicates("defended", keep="last")
    pairs = zip(best["defended"], best["static"], strict=True)
    return {id(records[defended]): records[static] for defended, static in pairs}


def pair_up(records: Sequence[Record]) -> list[Pair]:
    """Return every defended record with the static record of its comparison, in order.

    A defended record whose static record is not among the records is left out.
    """
    pairs: dict[int, Pair] = {}
    candidates = matches(records).iloc[::-1]
    for place, beside in zip(candidates["defended"], candidates["static"], strict=True):
        static, defended = records[beside], records[place]
        if place not in pairs:
            with suppress(SpecError):
                pairs[place] = Pair(static, defended, verdict(static, defended))
    return [pairs[place] for place in sorted(pairs)]


def _chosen() -> frozenset[str]:
    """Return the columns that the user chose for a run; all others are its results."""
    model, data = ModelSpec(name="", sha256=""), DataSpec(name="", sha256="", first=0, count=1)
    columns = {*spec_columns(EvalSpec(model=model, data=data, defense=DentSpec()))}
    chosen = columns - {"key", "defense_title", "published_protocol"}
    return frozenset(chosen | {"defense_settings", "defense_sha256", "protocol"})


CHOSEN: Final = _chosen()
"""The columns that were chosen for a run; the others are its results, and its key."""


def series(
    pairs: Sequence[Pair], column: str, value: Callable[[Record], Fraction | int | None]
) -> list[list[Pair]]:
    """Return the groups of pairs that differ in a single column, in order of its value.

    ``value`` gives the sort key, None for a pair that has none. Of pairs with equal values the
    last is kept; a pair that is left alone is no series.
    """
    groups: dict[object, dict[Fraction | int, Pair]] = {}
    settings_of = attrgetter(*sorted(CHOSEN - {column}))
    for pair in pairs:
        place = value(pair.defended)
        if place is not None:
            groups.setdefault(settings_of(pair.defended), {})[place] = pair
    ordered = ([by_place[place] for place in sorted(by_place)] for by_place in groups.values())
    return [group for group in ordered if len(group) > 1]


def representatives(pairs: Sequence[Pair], grouped: Collection[Sequence[Pair]]) -> list[Pair]:
    """Return the pairs that stand for all: of each series a pair, and every pair of no series.

    Of a series it is the pair that most series have in common, then the last that was run.
    """
    member: dict[int, int] = {}
    for group in grouped:
        for pair in group:
            member[id(pair)] = member.get(id(pair), 0) + 1
    chosen = {
        id(max(group, key=lambda pair: (member[id(pair)], pair.defended.time))) for group in grouped
    }
    return [pair for pair in pairs if id(pair) in chosen or id(pair) not in member]
