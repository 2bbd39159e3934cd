"""``evaluate --from-record``: a record turned back into the options that made it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dentbench.errors import SpecError, StoreError
from dentbench.spec.evaluation import NO_ATTACK, EvalSpec

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
    *("mode", "steps", "delta", "layers", "loss", "statistics", "blur", "sigma", "padding"),
    *("optimizer", "lr", "sigma_lr"),
)


def expanded(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the options of the record that it names put in.

    They come first, so that what the user writes beside them wins. Raises
    :class:`~dentbench.errors.StoreError` where there is no such record.
    """
    key = _value_of(OPTION, arguments)
    if key is None:
        return list(arguments)
    found, folder = _named(key, Path(_value_of("--results", arguments) or "results"))
    own = list(arguments)
    for number, argument in enumerate(own):  # the whole key of its folder, to be checked then
        if argument.partition("=")[0] == OPTION:
            whole = f"{folder}/{found.key}"
            own[number : number + (1 if "=" in argument else 2)] = [OPTION, whole]
            break
    record = options(found)
    if _value_of("--model", own) is not None:  # it may be given more than once: theirs, not both
        record = record[2:]
    return [own[0], *record, *own[1:]]


def _named(text: str, results: Path) -> tuple[Record, Path]:
    """Return the record that KEY or FOLDER/KEY names, and its folder."""
    folder = Path(text).parent if "/" in text else results
    return find(folder.expanduser(), Path(text).name), folder


def checked(text: str | None, results: Path) -> Callable[[Sequence[EvalSpec]], None] | None:
    """Return what refuses specs that are not of the record named; None where none is."""
    if text is None:
        return None
    return functools.partial(check, recorded=_named(text, results)[0])


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
    source: dict[str, str] = json.loads(record.source or "{}")
    chosen = ["--model", source.pop("model", record.model), *_data(record)]
    for name, text in source.items():
        chosen += ["--" + name, *(text.split(" ", 1) if name == "normalize" else [text])]
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
        title = f"{record.defense_title}=" if record.defense_title and ":" in record.defense else ""
        own = (f"{name}={value}" for name, value in settings.items())
        return ["--defense", ",".join([title + record.defense, *own])]
    chosen = []
    for name in (*_DENT, *SET_NAMES):
        value = getattr(record, name, None)
        if value is not None and name in _DENT:
            chosen += ["--" + name.replace("_", "-"), str(value)]
        elif value is not None:
            chosen += ["--set", f"{name}={str(value).lower()}"]
    return chosen


def check(specs: Sequence[EvalSpec], recorded: Record) -> None:
    """Raise :class:`~dentbench.errors.SpecError` unless the record is what specs will run.

    ``specs``: of the run, before it. The settings that differ are named.
    """
    if any(spec.key() == recorded.key for spec in specs):
        return
    same = [spec for spec in specs if spec.mode == recorded.mode] or [*specs]
    different = min((_differences(spec, recorded) for spec in same), key=len)
    told = "; ".join(different) or "the code of its attack or its defense"
    raise SpecError(
        f"the run is another one than record {recorded.key}: {told}. Nothing was run; leave out "
        f"what changes it, or leave out {OPTION}"
    )


_IN_WORDS = {
    "model_sha256": "the weights",
    "model_code": "the model's code, arch or normalize",
    "data_sha256": "the images or labels",
    "defense_sha256": "the source of the defense",
}


def _differences(spec: EvalSpec, recorded: Record) -> list[str]:
    """Return what of a spec is not what the record says, in words."""
    from dentbench.records.outcome import spec_columns

    found = []
    for name, value in spec_columns(spec).items():
        before = getattr(recorded, name)
        if value == before or name in ("key", "separable", "defense_title", "published_protocol"):
            continue
        if name in _IN_WORDS:
            found.append(f"{_IN_WORDS[name]} changed")
        else:
            found.append(f"{name.replace('_', ' ')} is {value}, not {before}")
    return found
