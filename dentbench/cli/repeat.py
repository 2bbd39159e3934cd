"""``evaluate --from-record``: a record turned back into the options that made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dentbench.errors import SpecError, StoreError
from dentbench.spec.evaluation import NO_ATTACK

if TYPE_CHECKING:
    from dentbench.records.outcome import Record

OPTION = "--from-record"

_OPTIONS = {
    "first": "--first",
    "count": "--examples",
    "order": "--order",
    "attack": "--attack",
    "iterations": "--iterations",
    "targets": "--targets",
    "queries": "--queries",
    "norm": "--norm",
    "eps": "--eps",
    "batch_size": "--batch-size",
    "batching": "--batching",
    "precision": "--precision",
    "seed": "--seed",
}
_DENT = (
    *("mode", "steps", "delta", "loss", "statistics", "blur", "sigma", "padding", "optimizer"),
    *("lr", "sigma_lr"),
)


def expanded(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the options of the record that it names put in.

    They come first, so that what the user writes beside them wins. Raises
    :class:`~dentbench.errors.StoreError` where there is no such record.
    """
    key = _value_of(OPTION, arguments)
    if key is None:
        return list(arguments)
    folder = Path(_value_of("--results", arguments) or "results")
    if "/" in key:
        folder, key = Path(key).parent, Path(key).name
    own = list(arguments)
    for number, argument in enumerate(own):  # its key alone stays, to be checked in the end
        if argument.partition("=")[0] == OPTION:
            own[number : number + (1 if "=" in argument else 2)] = [OPTION, key]
            break
    return [own[0], *options(find(folder, key)), *own[1:]]


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else next(iter(arguments[number + 1 : number + 2]), None)
    return None


def find(folder: Path, key: str) -> Record:
    """Return the last record whose key begins with ``key``, in a results folder."""
    from dentbench.records.results_csv import read

    records = read(folder)
    found = [record for record in records if key and record.key.startswith(key)]
    if not found:
        newest = ", ".join(dict.fromkeys(record.key for record in records[:-4:-1]))
        told = f"the newest are {newest} (column key of results.csv)" if newest else "it has none"
        raise StoreError(f"no record in {folder} has the key {key!r}; {told}")
    if len({record.key for record in found}) > 1:
        raise StoreError(f"several records in {folder} have keys that begin with {key!r}")
    return found[-1]


def options(record: Record) -> list[str]:
    """Return the options of ``dentbench evaluate`` that repeat a record."""
    chosen = ["--model", record.model, *_data(record)]
    for column, option in _OPTIONS.items():
        value = getattr(record, column)
        if value is not None and not (record.attack == NO_ATTACK and column in ("norm", "eps")):
            chosen += [option, str(value)]
    chosen += _defense(record)
    if record.mode != "static":
        for name in record.protocol.split():
            chosen += ["--protocol", name]
        for name, value in json.loads(record.protocol_settings or "{}").items():
            if name == "cascade":
                chosen += [] if value else ["--no-cascade"]
            elif value is not None:
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                chosen += ["--protocol-set", f"{name}={text}"]
    return chosen


def _data(record: Record) -> list[str]:
    from dentbench.zoo.cards import DATASETS
    from dentbench.zoo.corruptions import parse_title

    name, corruption, severity = parse_title(record.dataset) or (record.dataset, "", 0)
    part = ["--corruption", corruption, "--severity", str(severity)] if corruption else []
    for card in DATASETS.values():
        if card.name == name:
            return ["--dataset", card.id, *part]
    return ["--data-name", record.dataset]  # a file: the user says which with --data


def _defense(record: Record) -> list[str]:
    from dentbench.study.parsing import SET_NAMES

    if record.mode == "static":
        return ["--mode", "static"]
    if record.mode == "other":
        settings = json.loads(record.defense_settings or "{}")
        return ["--defense", ",".join([record.defense, *(f"{k}={v}" for k, v in settings.items())])]
    chosen = []
    for name in (*_DENT, *SET_NAMES):
        value = getattr(record, name, None)
        if value is not None and name in _DENT:
            chosen += ["--" + name.replace("_", "-"), str(value)]
        elif value is not None:
            chosen += ["--set", f"{name}={str(value).lower()}"]
    return chosen


def check(key: str, records: Sequence[Record]) -> None:
    """Raise :class:`~dentbench.errors.SpecError` unless the record repeated is among those made."""
    if not any(record.key.startswith(key) for record in records):
        keys = ", ".join(record.key for record in records)
        raise SpecError(
            f"the run is another one than record {key} ({keys}): its model, data or settings are "
            "not what they were"
        )
