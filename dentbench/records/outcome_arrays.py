"""A batch's outcome as the arrays of an ``.npz`` file, and back.

``images`` (B): an element per image, with a field per quantity; the fields are
:data:`IMAGE_FIELDS`, those left out that an outcome does not have. ``batch`` (): the stage, the
number of the batch and its costs. ``versions``: name and number of the code. ``details``: counts
of the protocol, each under its path. Files of version 0.1 hold the same as JSON in ``outcome``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dentbench.records.outcome import BatchOutcome

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by name, as an ``.npz`` file holds them."""

IMAGE_FIELDS: Final[Mapping[str, tuple[str, type]]] = {
    "index": ("indexes", np.int64),
    "label": ("labels", np.int64),
    "correct": ("correct", np.bool_),
    "attack_correct": ("attack_correct", np.bool_),
    "broken_by": ("broken_by", np.str_),
    "judged": ("judged", np.bool_),
    "static_correct": ("static_correct", np.bool_),
    "rights": ("rights", np.int64),
    "unanswered": ("unanswered", np.bool_),
    "linf": ("linf", np.float64),
    "l2": ("l2", np.float64),
    "l1": ("l1", np.float64),
}
"""The fields of ``images``: the field of an outcome that each holds, and its type."""

_BATCH_FIELDS: Final = ("stage", "index", "forwards", "backwards", "seconds", "points_sha256")
_OPTIONAL: Final = ("changed", "asked_again", "unlike")
"""Counts that are left out where there are none."""

_PLACE: Final = "/"  # between the names of a path in details


def to_arrays(outcome: BatchOutcome) -> dict[str, NDArray[Any]]:
    """Return an outcome as arrays; ``ValueError`` for flags that are not of one batch."""
    columns: dict[str, NDArray[Any]] = {
        name: np.array(getattr(outcome, field), dtype=kind)
        for name, (field, kind) in IMAGE_FIELDS.items()
        if getattr(outcome, field) or name == "correct"
    }
    batch = {name: np.array([getattr(outcome, name)]) for name in _BATCH_FIELDS}
    known = {name: getattr(outcome, name) for name in _OPTIONAL}
    batch |= {name: np.array([count]) for name, count in known.items() if count is not None}
    details = dict(_paths(outcome.details))
    return {
        "images": _table(columns),
        "batch": _table(batch)[0],
        "versions": _table(_pairs(outcome.versions)),
        "details": _table(_pairs(details)),
    }


def from_arrays(arrays: Arrays) -> BatchOutcome:
    """Return the outcome that arrays hold; ``ValueError`` or ``KeyError`` for other arrays."""
    if "outcome" in arrays:
        return _from_json(str(arrays["outcome"]))
    images, batch = arrays["images"], arrays["batch"]
    known: dict[str, Any] = {field: tuple(images[name].tolist()) for name, field in _known(images)}
    known |= {name: batch[name].item() for name in batch.dtype.names or ()}
    return BatchOutcome(
        **known,
        details=_nested(_counts(arrays["details"])),
        versions=_counts(arrays["versions"]),
    )


def _from_json(text: str) -> BatchOutcome:
    fields = json.loads(text)
    for name in ("correct", "attack_correct", "broken_by", "judged", "static_correct", "rights"):
        fields[name] = tuple(fields.get(name, ()))
    return BatchOutcome(**fields)


def _known(images: NDArray[Any]) -> Iterator[tuple[str, str]]:
    for name in images.dtype.names or ():
        yield name, IMAGE_FIELDS[name][0]


def _table(columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return columns of one length as one array with named fields."""
    kinds = [(name, column.dtype) for name, column in columns.items()]
    length = len(next(iter(columns.values())))
    table = np.empty(length, dtype=kinds)
    for name, column in columns.items():
        if len(column) != length:
            raise ValueError(f"{name} has {len(column)} values for {length} images")
        table[name] = column
    return table


def _pairs(counts: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    return {
        "name": np.array(list(counts), dtype=np.str_),
        "number": np.array(list(counts.values()), dtype=np.int64),
    }


def _counts(pairs: NDArray[Any]) -> dict[str, int]:
    return dict(zip(pairs["name"].tolist(), pairs["number"].tolist(), strict=True))


def _paths(details: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, int]]:
    """Yield each count with its path; a path that ends in the separator has nothing below it."""
    for name, value in details.items():
        assert _PLACE not in name
        if not isinstance(value, Mapping):
            yield f"{above}{name}", value
        elif value:
            yield from _paths(value, f"{above}{name}{_PLACE}")
        else:
            yield f"{above}{name}{_PLACE}", 0


def _nested(paths: Mapping[str, int]) -> dict[str, Any]:
    details: dict[str, Any] = {}
    for path, value in paths.items():
        *above, name = path.split(_PLACE)
        place = details
        for step in above:
            place = place.setdefault(step, {})
        if name:
            place[name] = value
    return details
