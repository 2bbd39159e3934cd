"""Choose the records of a report: models by name, and the static records of defended records."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from dentbench.paper import README, TABLE1
from dentbench.records.outcome import Record
from dentbench.registry import Registry
from dentbench.report.pairing import pair_up
from dentbench.zoo.cards.model_cards import MODELS

APART: Final = re.compile(r"(, (weights|code) ([0-9a-f]{6}|unknown))+$")
"""The suffixes that :func:`distinguished` puts after a model's name."""

_UNKNOWN: Final = "unknown"
"""In place of the hash of a model's code in records that are older than it."""


def distinguished(records: Sequence[Record]) -> list[Record]:
    """Return the records, models that have one name but other weights or code named apart.

    Such as "net.pt, weights 1a2b3c" or "mine:make, code 4d5e6f". Records of models with a card that
    are older than the hash of the code are of the code that the card names.
    """
    hashes: dict[str, set[tuple[str, str]]] = {}
    for record in records:
        hashes.setdefault(record.model, set()).add(_hashes(record))
    return [_named_apart(record, hashes[record.model]) for record in records]


def _hashes(record: Record) -> tuple[str, str]:
    """Return the hashes of a model's weights and code; "" for a code that its name says."""
    return record.model_sha256, "" if record.model in MODELS else record.model_code or _UNKNOWN


def _named_apart(record: Record, hashes: Collection[tuple[str, str]]) -> Record:
    """Return a record with its model's name made unique, given all hashes of that name."""
    suffixes = [
        f", {kind} {own if own == _UNKNOWN else own[:6]}"
        for kind, own, others in zip(
            ("weights", "code"), _hashes(record), zip(*hashes, strict=True), strict=True
        )
        if len(set(others)) > 1
    ]
    return replace(record, model=record.model + "".join(suffixes)) if suffixes else record


def with_statics(chosen: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """Return the records chosen and the static records of their comparisons, in order."""
    ids = {id(record) for record in chosen}
    ids |= {id(pair.static) for pair in pair_up(records) if id(pair.defended) in ids}
    return [record for record in records if id(record) in ids]


def models_named(names: Collection[str], records: Sequence[Record]) -> set[str]:
    """Return the models that names or their beginnings stand for.

    Raises :class:`~dentbench.errors.UnknownNameError` for a name that neither the records nor the
    published numbers have.
    """
    models: Registry[str] = Registry("model")
    published = (row.model for table in (TABLE1, README) for row in table.rows)
    for model in dict.fromkeys([*(record.model for record in records), *published]):
        if model not in models:
            models.add(model, model)
    wanted: set[str] = set()
    for name in names:
        begun = [model for model in models if model.lower().startswith(name.lower())]
        wanted.update([models[name]] if name in models or not begun else begun)
    return wanted
