"""Conditions that records are chosen by: columns compared with values, and ranges."""

from __future__ import annotations

import functools
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import pandas as pd

from dentbench.errors import SpecError, StoreError
from dentbench.records.frame import by_record
from dentbench.records.outcome import Record, column_names
from dentbench.registry import SHOWN, Registry
from dentbench.report.filters import APART
from dentbench.report.verdict import Kind, kind_of
from dentbench.spec.evaluation import parse_eps

VERDICT: Final = "verdict"
"""The kind of the verdict, which ``--where`` takes beside the columns of ``results.csv``."""

COLUMNS: Final[Registry[str]] = Registry("column")
"""The columns that ``--where`` takes."""

for _name in (*column_names(), VERDICT):
    COLUMNS.add(_name, _name)

VERDICTS: Final[Registry[str]] = Registry("verdict")
"""The kinds of verdicts that ``--where`` takes, written with spaces, hyphens or underscores."""

for _name in get_args(Kind):
    VERDICTS.add(_name, _name)

COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_CONDITION: Final = re.compile(r"\s*([\w-]+)\s*(<=|>=|!=|<|>|==?)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """A condition: a column, a comparison, and a value, as written."""

    column: str
    comparison: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return a condition; raises SpecError or UnknownNameError for anything else."""
        parts = _CONDITION.fullmatch(text)
        if parts is None:
            raise SpecError(
                f"--where {text!r}: write COLUMN=VALUE, such as mode=instance, or a range such as "
                "n>=1000; comparisons: " + ", ".join(COMPARISONS)
            )
        column, value = COLUMNS.canonical(parts[1].replace("-", "_")), parts[3]
        if column == "model":
            value = APART.sub("", value)
        elif column == VERDICT and value:
            value = VERDICTS.canonical(re.sub(r"[-_\s]+", " ", value))
        return cls(column, parts[2].replace("==", "="), value)

    def holds(self, column: pd.Series[Any]) -> pd.Series[Any]:
        """Return, row by row, whether a typed column fulfils the condition."""
        if not self.value:
            missing = column.isna()
            return ~missing if self.comparison == "!=" else missing
        compare = COMPARISONS[self.comparison]
        if self.column == "eps":
            return column.map(lambda eps: compare(eps, parse_eps(self.value))).astype("bool")
        kind = pd.api.types
        if kind.is_bool_dtype(column) or kind.is_string_dtype(column):
            if self.comparison not in ("=", "!="):
                raise SpecError(f"{self.column} has no order; compare it by = or !=")
            # Booleans are written as in the results file: true and false.
            texts = column.astype("string").str.lower()
            if self.column == "key" and self.comparison == "=":  # the beginning of a key will do
                return texts.str.startswith(self.value.lower()).astype("bool")
            return compare(texts, self.value.lower()).fillna(self.comparison == "!=").astype("bool")
        try:
            value = (
                pd.Timestamp(self.value, tz="UTC")
                if kind.is_datetime64_any_dtype(column)
                else float(self.value)
            )
        except ValueError as error:
            expected = "a time such as 2026-11-22" if self.column == "time" else "a number"
            raise SpecError(f"{self.column} is {self.value!r}; write {expected}") from error
        return compare(column, value).fillna(self.comparison == "!=").astype("bool")


def where(records: Sequence[Record], texts: Sequence[str]) -> list[Record]:
    """Return the records that fulfil conditions such as "mode=batch", "n>=1000", "verdict=holds".

    Of one column given by "=" more than once any value will do. Numbers, times and eps, an exact
    fraction, are compared by value; other columns as they are written, letters of either case. A
    column may be empty: "defense_sha256=". Raises :class:`~dentbench.errors.SpecError` for a
    malformed condition and :class:`~dentbench.errors.StoreError` where no record is left.
    """
    kept = list(records)
    groups: dict[str, list[Condition]] = {}
    for condition in map(Condition.parse, texts):
        groups.setdefault(condition.column, []).append(condition)
    for name, conditions in groups.items():
        column = _column(name, kept)
        equal = [condition.holds(column) for condition in conditions if condition.comparison == "="]
        holds = functools.reduce(operator.or_, equal) if equal else ~column.isna() | True
        for condition in conditions:
            if condition.comparison != "=":
                holds &= condition.holds(column)
        left = [record for record, chosen in zip(kept, holds, strict=True) if chosen]
        if not left:
            raise StoreError(_none_left(name, conditions, column))
        kept = left
    return kept


def _column(name: str, records: Sequence[Record]) -> pd.Series[Any]:
    if name == VERDICT:
        return pd.Series([kind_of(record) for record in records], dtype="string")
    column: pd.Series[Any] = by_record(records, [name])[name]
    return column.str.replace(APART, "", regex=True) if name == "model" else column


def _none_left(name: str, conditions: Sequence[Condition], column: pd.Series[Any]) -> str:
    """Say which condition failed, which values the records have, and how to go on."""
    asked = " or ".join(
        dict.fromkeys(f"{name}{condition.comparison}{condition.value}" for condition in conditions)
    )
    known = Counter("" if pd.isna(value) else str(value).lower() for value in column)
    if name == VERDICT and set(known) == {""}:
        return (
            f"no record has {asked}: of the {len(column)} here none has a verdict, which compares "
            "an attacked defense with its static model; run dentbench evaluate without --mode "
            "static, or leave out this --where"
        )
    empty = "no verdict (static models, natural images)" if name == VERDICT else "no value"
    there = [f"{value or empty} ({count})" for value, count in sorted(known.items())]
    more = [f"and {len(there) - SHOWN} more"] if len(there) > SHOWN else []
    return f"no record has {asked}; there are: {', '.join(there[:SHOWN] + more)}"
