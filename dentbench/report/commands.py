"""Turn records into commands: repeat a record, or settle a verdict."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

from dentbench.attacks.checks import NATURAL_ACCURACY, from_json
from dentbench.errors import SpecError
from dentbench.records.outcome import Record
from dentbench.records.stopping import stopped
from dentbench.report import departures
from dentbench.spec.evaluation import (
    NO_ATTACK,
    DentSpec,
    ProtocolSpec,
    field_names,
    parse_eps,
)
from dentbench.spec.plausible import require_plausible
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.cards.model_cards import MODELS
from dentbench.zoo.images.corruptions import parse_title

SHOWN_KEY: Final = 8
"""The digits of a key that are shown; any unique beginning of a key is accepted."""

Words: TypeAlias = tuple[str, ...]
"""An option and its values, as they stand on a command line."""

_OPTIONS: Final = {
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
_DEFAULTS: Final = frozenset(
    {
        *(("--first", "0"), ("--order", "given"), ("--attack", "standard")),
        *(("--batch-size", "128"), ("--batching", "declared"), ("--precision", "fp32")),
        *(("--seed", "0"), ("--mode", "instance")),
    }
)
"""The defaults of ``dentbench evaluate``."""

_OWN_OPTION: Final = (
    *("mode", "steps", "delta", "layers", "loss", "statistics", "blur", "sigma", "padding"),
    *("optimizer", "lr", "sigma_lr"),
)
"""The settings of dent that have an option of their own; the others are given by ``--set``."""


def short_key(record: Record) -> str:
    """Return the digits of a record's key that summaries show."""
    return record.key[:SHOWN_KEY]


def options(record: Record) -> list[str]:
    """Return the options of ``dentbench evaluate`` that repeat a record, in order."""
    return [word for words in _all_options(record) for word in words]


def command(record: Record, results: str | Path = "results", changes: Sequence[Words] = ()) -> str:
    """Return the whole command that repeats a record, without defaults.

    ``changes``: options that take the place of the record's own of that name; an option without
    a value is left out.
    """
    replaced = {words[0] for words in changes}
    kept = [words for words in _all_options(record) if words[0] not in replaced]
    kept = [words for words in kept if words not in _DEFAULTS and not _is_default(record, words)]
    kept += [words for words in changes if len(words) > 1]
    return _line([*kept, *_folder(results)])


def next_command(record: Record, results: str | Path, changes: Sequence[Words]) -> str:
    """Return the shortest command that runs a record again with changes.

    Of a record that was made from Python it is a call.
    """
    if record.source is None and record.model not in MODELS:
        return _call(changes)
    if all(words[0] == "--protocol" for words in changes):  # they leave the key as it is
        return _line([("--from-record", short_key(record)), *changes, *_folder(results)])
    return command(record, results, changes)


def _folder(results: str | Path) -> list[Words]:
    return [] if str(results) == "results" else [("--results", str(results))]


def _line(parts: Sequence[Words]) -> str:
    return shlex.join(["dentbench", "evaluate", *(word for words in parts for word in words)])


def _call(changes: Sequence[Words]) -> str:
    names = {"--protocol": "protocols", "--attack": "attack"}
    given = [f'{names[words[0]]}="{words[1]}"' for words in changes if words[0] in names]
    given += [f"batch_size={words[1]}" for words in changes if words[0] == "--batch-size"]
    images = [f"{words[1]} images" for words in changes if words[0] == "--examples"]
    call = f"dentbench.evaluate({', '.join(['model', 'images', 'labels', *given, '...'])})"
    return call + "".join(f" with {text}" for text in images)


def _is_default(record: Record, words: Words) -> bool:
    """Return whether a setting is the default of dent's mode, steps and blur."""
    name = words[0].removeprefix("--").replace("-", "_")
    if record.mode not in ("batch", "instance") or name not in _OWN_OPTION or name == "mode":
        return False
    if record.model in MODELS and name in MODELS[record.model].recommended:
        return False
    plain = DentSpec(mode=record.mode)
    if name not in ("steps", "blur"):
        plain = DentSpec(mode=record.mode, steps=record.steps or 0, blur=record.blur or "none")
    return str(getattr(plain, name)) == words[1]


# --- every option of a record ---------------------------------------------------------------------


def _all_options(record: Record) -> list[Words]:
    source: dict[str, str] = json.loads(record.source or "{}")
    chosen: list[Words] = [("--model", source.pop("model", record.model)), *_data(record)]
    for name, text in source.items():
        values = text.split(" ", 1) if name == "normalize" else [text]
        chosen.append(("--" + name, *values))
    for column, option in _OPTIONS.items():
        value = getattr(record, column)
        if value is not None and not (record.attack == NO_ATTACK and column in ("norm", "eps")):
            chosen.append((option, str(value)))
    chosen += _defense(record)
    if _is_forced(record):
        chosen.append(("--force",))
    early = stopped(record)
    if early is not None and early.rule == "decided":
        chosen.append(("--until", "decided"))
    return chosen if record.mode == "static" else [*chosen, *_protocols(record)]


def _is_forced(record: Record) -> bool:
    """Return whether a run of these settings stops unless it is forced."""
    natural = from_json(record.checks).get(NATURAL_ACCURACY)
    if natural is not None and natural.passed is False:
        return True
    try:
        if record.attack != NO_ATTACK:
            require_plausible(record.norm, parse_eps(record.eps))
    except SpecError:
        return True
    return False


def _data(record: Record) -> list[Words]:
    name, corruption, severity = parse_title(record.dataset) or (record.dataset, "", 0)
    part: list[Words] = []
    if corruption:
        part = [("--corruption", corruption), ("--severity", str(severity))]
    for card in DATASETS.values():
        if card.name == name:
            return [("--dataset", card.id), *part]
    if record.source is not None:  # it says from which file
        return []
    return [("--data-name", record.dataset)]  # a file: the user says which with --data


def _defense(record: Record) -> list[Words]:
    if record.mode == "static":
        return [("--mode", "static")]
    if record.mode == departures.OTHER:
        settings = json.loads(record.defense_settings or "{}")
        named = record.defense_title not in (None, record.defense) and ":" in record.defense
        title = f"{record.defense_title}=" if named else ""
        own = (f"{name}={value}" for name, value in settings.items())
        return [("--defense", ",".join([title + record.defense, *own]))]
    chosen: list[Words] = []
    others = [name for name in field_names(DentSpec) if name not in _OWN_OPTION]
    for name in (*_OWN_OPTION, *others):
        value = getattr(record, name, None)
        if value is not None and name in _OWN_OPTION:
            chosen.append(("--" + name.replace("_", "-"), str(value)))
        elif value is not None and not _is_plain(record, name, value):
            chosen.append(("--set", f"{name}={str(value).lower()}"))
    return chosen


def _is_plain(record: Record, name: str, value: object) -> bool:
    """Return whether a setting that ``--set`` gives is the default; no card recommends any."""
    plain = DentSpec(mode=record.mode, steps=record.steps or 0, blur=record.blur or "none")
    return bool(getattr(plain, name) == value)


def _protocols(record: Record) -> list[Words]:
    early = stopped(record)
    names = [*record.protocol.split(), *(() if early is None else early.not_run)]
    chosen: list[Words] = [("--protocol", name) for name in names]
    changed = ProtocolSpec.from_json(record.protocol_settings or "{}").changed
    for name, value in changed.items():
        if name == "cascade":
            chosen += [] if value else [("--no-cascade",)]
        elif value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            chosen.append(("--protocol-set", f"{name}={text}"))
    return chosen
