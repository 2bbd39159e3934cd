"""A record's values as cells of ``results.csv``, and back.

How a value is written: None is empty, booleans are ``true`` and ``false``, floats have as many
digits as their exact value needs. A text that a spreadsheet would run as a formula (it begins with
``= + - @`` or white space), that holds a line break or another control character, or that begins
with an apostrophe itself is written as an apostrophe followed by Python's ``unicode_escape`` of
it; any other text is written as it is. Reading undoes this exactly.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from typing import Any, Final

from dentbench.records.outcome import Record
from dentbench.spec.attack import NORMS, parse_eps

# Full-width forms of = + - @ count too: some spreadsheets run them.
_HAZARD: Final = re.compile(
    r"[\s'=+\-@\uff1d\uff0b\uff0d\uff20]|.*[\x00-\x1f\x7f-\x9f\ud800-\udfff]"
)


def escape(text: str) -> str:
    """Return a text as it is written into a CSV cell: safe for spreadsheets, on one line."""
    if _HAZARD.match(text) is None:
        return text
    return "'" + text.encode("unicode_escape").decode("ascii")


def unescape(cell: str) -> str:
    """Return the text that :func:`escape` wrote; raises ``ValueError`` for a broken escape."""
    if not cell.startswith("'"):
        return cell
    return cell[1:].encode("ascii").decode("unicode_escape")


def to_row(record: Record) -> list[str]:
    """Return a record's cells in column order; raises ``TypeError`` for a value of a wrong type."""
    return [write(getattr(record, name)) for name, write in WRITERS.items()]


def _write_text(value: str) -> str:
    return escape("".join([value]))


_NUMBER: Final = (int, float, type(None))
_ANY: Final = (str, int, float, bool, type(None), list, dict)
_COUNTS: Final = {str: (int,)}
_SHAPES: Final[Mapping[str, Any]] = {
    "by_protocol": _COUNTS,
    "broken_by": _COUNTS,
    "stage_versions": _COUNTS,
    "rechecked": _COUNTS,
    "skipped": {str: (str,)},
    "versions": {str: (str,)},
    "checks": {
        str: {
            "passed": (bool, type(None)),
            "value": _NUMBER,
            "sentence": (str,),
            str: {str: _NUMBER},  # shares
        }
    },
    "diagnostics": {str: {"images": (int,), "flips": (int,), str: _NUMBER}},
    "batch_mates": {"compositions": {str: _COUNTS}, "invading": {str: _COUNTS}},
}
"""The shapes of JSON columns: a tuple of types, or a shape by name; ``str`` is any other."""


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, tuple):
        return type(value) in shape
    named = [name for name in shape if name is not str]
    return (
        isinstance(value, dict)
        and all(name in value for name in named)
        and (str in shape or len(value) == len(named))
        and all(_fits(part, shape.get(name, shape.get(str))) for name, part in value.items())
    )


def _json_reader(name: str) -> Callable[[str], str]:
    def read_json(cell: str) -> str:
        text = unescape(cell)
        value = json.loads(text)
        if not isinstance(value, dict) or not _fits(value, _SHAPES.get(name, {str: _ANY})):
            raise ValueError(cell)
        return text

    return read_json


def _read_bool(cell: str) -> bool:
    if cell not in ("true", "false"):
        raise ValueError(cell)
    return cell == "true"


def _read_eps(cell: str) -> str:
    parse_eps(cell)
    return cell


def _whole_from(least: int) -> Callable[[str], int]:
    def read_whole(cell: str) -> int:
        value = int(cell)
        if value < least:
            raise ValueError(cell)
        return value

    return read_whole


def _choice_of(names: Collection[str]) -> Callable[[str], str]:
    def read_choice(cell: str) -> str:
        if cell not in names:
            raise ValueError(cell)
        return cell

    return read_choice


CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "norm": NORMS,
    "mode": ("static", "batch", "instance", "other"),
    "blur": ("none", "static", "dynamic"),
}
"""The columns that hold one of a few texts, and these."""

LEAST: Final[Mapping[str, int]] = {"first": 0, "count": 1, "n": 1, "batch_size": 1, "steps": 0}
"""The columns of whole numbers that reports compute with, and the least that each may hold."""

_OWN_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "eps": _read_eps,
    **{name: _whole_from(least) for name, least in LEAST.items()},
    **{name: _choice_of(names) for name, names in CHOICES.items()},
}

_PLAIN: Final[Mapping[str, tuple[Callable[[str], Any], Callable[[Any], str]]]] = {
    "str": (unescape, _write_text),
    "int": (int, lambda value: str(operator.index(value))),
    "float": (float, lambda value: repr(float(value))),
    "bool": (_read_bool, lambda value: {True: "true", False: "false"}[value]),
}


def _is_json(column: Field[Any]) -> bool:
    return bool(column.metadata["doc"].endswith("JSON object"))


_IN_WORDS: Final = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


def _allowed(column: Field[Any]) -> str:
    """Return in words the values that a column's cells may hold."""
    base = str(column.type).removesuffix(" | None")
    words = "a JSON object as dentbench writes it" if _is_json(column) else _IN_WORDS[base]
    if column.name in CHOICES:
        words = " or ".join(CHOICES[column.name])
    elif column.name in LEAST:
        words += f" from {LEAST[column.name]}"
    elif column.name == "eps":
        words = "a fraction or a number, such as 8/255 or 0.5"
    return words if base == column.type else f"{words}, or nothing"


def _converters(column: Field[Any]) -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    kind = str(column.type)
    base = kind.removesuffix(" | None")
    reader, writer = _PLAIN[base]
    if _is_json(column):
        reader = _json_reader(column.name)
    reader = _OWN_READERS.get(column.name, reader)
    if base == kind:
        return reader, writer
    # An empty cell is None; the empty text is an apostrophe alone.
    return (
        lambda cell: reader(cell) if cell else None,
        lambda value: "" if value is None else writer(value) or "'",
    )


ALLOWED: Final = {column.name: _allowed(column) for column in fields(Record)}
"""The values that the cells of each column may hold, in words."""

TYPES: Final = {column.name: str(column.type) for column in fields(Record)}
READERS: Final = {column.name: _converters(column)[0] for column in fields(Record)}
WRITERS: Final = {column.name: _converters(column)[1] for column in fields(Record)}
"""The types of the columns, and the readers and writers of their cells, by name."""
