"""``evaluate --from-record``: a record turned back into the options that made it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dentbench.cli import keys
from dentbench.errors import SpecError

if TYPE_CHECKING:
    from dentbench.records.outcome import Record
    from dentbench.spec.evaluation import EvalSpec

OPTION = "--from-record"


def expanded(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the options of the record that it names put in.

    They come first, so that the user's own options win. Raises
    :class:`~dentbench.errors.StoreError` where there is no such record.
    """
    key = _value_of(OPTION, arguments)
    if key is None:
        return list(arguments)
    from dentbench.report.commands import options

    matched, folder = keys.named(key, Path(_value_of("--results", arguments) or "results"))
    own = list(arguments)
    for number, argument in enumerate(own):  # the whole key of its folder, to be checked then
        if argument.partition("=")[0] == OPTION:
            whole = f"{folder}/{matched.key}"
            own[number : number + (1 if "=" in argument else 2)] = [OPTION, whole]
            break
    record = options(matched)
    if _value_of("--model", own) is not None:  # it may be given more than once: theirs, not both
        record = record[2:]
    return [own[0], *record, *own[1:]]


def checked(text: str | None, results: Path) -> Callable[[Sequence[EvalSpec]], None] | None:
    """Return the check that refuses specs of another record; None without a record."""
    if text is None:
        return None
    return functools.partial(check, recorded=keys.named(text, results)[0])


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else next(iter(arguments[number + 1 : number + 2]), None)
    return None


def check(specs: Sequence[EvalSpec], recorded: Record) -> None:
    """Raise :class:`~dentbench.errors.SpecError` unless specs will run the record's settings.

    ``specs``: of the run, before it. The settings that differ are named.
    """
    if any(spec.key() == recorded.key for spec in specs):
        return
    same = [spec for spec in specs if spec.mode == recorded.mode] or [*specs]
    different = min((_differences(spec, recorded) for spec in same), key=len)
    differences = "; ".join(different) or "the code of its attack or its defense"
    raise SpecError(
        f"the run is another one than record {recorded.key}: {differences}. Nothing was run; "
        f"leave out what changes it, or leave out {OPTION}"
    )


_IN_WORDS = {
    "model_sha256": "the weights",
    "model_code": "the model's code, arch or normalize",
    "data_sha256": "the images or labels",
    "defense_sha256": "the source of the defense, or what it reads,",
}


def _differences(spec: EvalSpec, recorded: Record) -> list[str]:
    """Describe how a spec differs from the record."""
    from dentbench.records.outcome import spec_columns

    differences = []
    for name, value in spec_columns(spec).items():
        before = getattr(recorded, name)
        if value == before or name in ("key", "separable", "defense_title", "published_protocol"):
            continue
        if name in _IN_WORDS:
            differences.append(f"{_IN_WORDS[name]} changed")
        else:
            differences.append(f"{name.replace('_', ' ')} is {value}, not {before}")
    return differences
