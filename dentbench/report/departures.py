"""Describe in footnotes how a record's setting differs from the published setting."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from dentbench.attacks.checks import failed
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import (
    BatchPlan,
    DentSpec,
    ProtocolSpec,
    field_names,
    format_eps,
    parse_eps,
)

DATASET: Final = "CIFAR-10"
"""The data set of every published number."""

OFFICIAL_NAMES: Final = frozenset({DATASET, f"{DATASET} (test)"})
"""The names of that data set in records; any other name is another data set."""

IMAGES: Final = 10_000
"""The number of images of every published number."""

ATTACK: Final = "standard"
"""The attack of every published number: AutoAttack's standard version."""

NOT_AUTOATTACK: Final = "not AutoAttack"
"""The mark in the label of every attack that is no version of AutoAttack."""

MODES: Final = {"static": "static", "batch": "batch-wise", "instance": "instance-wise"}
"""The names of dent's modes."""

OTHER: Final = "other"
"""The mode of a defense that is not dent."""

PUBLISHED: Final = "published"
"""The protocol of every published number of dent, and the static model's own attack."""


_USED_BY_NO_STEPS: Final = ("padding", "sigma")
"""The settings that matter to dent in 0 steps, beside the kind of blur."""


@lru_cache
def _defaults(mode: str, steps: int, blur: str) -> dict[str, Any]:
    spec = DentSpec(mode=mode, steps=steps, blur=blur)
    names = field_names(DentSpec) if steps else _USED_BY_NO_STEPS
    own = ("mode", "steps", "blur")
    return {name: getattr(spec, name) for name in names if name not in own}


@lru_cache
def _values_of(names: tuple[str, ...]) -> Callable[[Record], tuple[Any, ...]]:
    return operator.attrgetter(*names)


def defense_name(record: Record) -> str:
    """Return the name of a defended record's defense in a sentence: dent, or its own name."""
    return (record.defense_title or record.defense) if record.mode == OTHER else "dent"


def defense_title(record: Record) -> str:
    """Return a record's defense as a title: with dent's mode and steps, or the static model."""
    if record.mode == "static":
        return "static model"
    if record.mode == OTHER:
        return defense_name(record)
    plural = "" if record.steps == 1 else "s"
    return f"{MODES[record.mode]} dent, {record.steps} step{plural}"


def published_protocol(record: Record) -> str:
    """Return the protocol that a defended record's defense was published with."""
    return record.published_protocol or PUBLISHED


def published_text(record: Record) -> str:
    """Return the name of a defense's published accuracy, with its protocol if not dent's."""
    own = published_protocol(record)
    return PUBLISHED if own == PUBLISHED else f"{PUBLISHED} ({own})"


def published_protocol_text(record: Record) -> str:
    """Return the name of the published protocol itself, and which it is unlike dent's."""
    own = published_protocol(record)
    return f"{PUBLISHED} protocol" + ("" if own == PUBLISHED else f" ({own})")


def publish_otherwise(records: Iterable[Record]) -> bool:
    """Return whether a defense was published with another protocol than dent."""
    return any(published_protocol(record) != PUBLISHED for record in records)


def named_protocol(record: Record, name: str) -> str:
    """Return a protocol's name, marked where the defense was published with it, unlike dent."""
    called = called_protocol(record, name)
    marked = name == published_protocol(record) != PUBLISHED
    return f"{called} ({PUBLISHED})" if marked else called


def called_protocol(record: Record, name: str) -> str:
    """Return a protocol's name as people call it: a user's without the hash of its source.

    The hash stays where a record has two protocols of that name.
    """
    plain = without_hash(name)
    alike = [other for other in record.protocol_counts if without_hash(other) == plain]
    return name if len(alike) > 1 else plain


def without_hash(text: str) -> str:
    """Return a text with users' attacks and protocols named without the hash of their source."""
    return _HASH.sub(r"\1", text)


_HASH: Final = re.compile(r"(:[\w.]+)@[0-9a-f]{12}(?:[0-9a-f]{8})?\b")
"""The name of a user's attack or protocol, "module:callable@hash"."""


def _odd_settings(record: Record) -> list[str]:
    """Return dent's settings that are not the default, or all settings of another defense."""
    if record.mode == OTHER:
        settings = json.loads(record.defense_settings or "{}")
    else:
        defaults = _defaults(record.mode, record.steps or 0, record.blur or "none")
        values = _values_of(tuple(defaults))(record)
        settings = {
            name: value
            for (name, default), value in zip(defaults.items(), values, strict=True)
            if value != default
        }
    return [f"{name.replace('_', ' ')} {value}" for name, value in settings.items()]


def slot_text(record: Record) -> str:
    """Return a run's settings that are not the default of its mode, steps and blur, or ""."""
    odd = []
    if record.mode != "static":
        odd = _odd_settings(record)
        if record.batch_size != BatchPlan.size:
            odd.append(f"batches of {record.batch_size}")
        if (record.order or "given") != "given":
            odd.append(f"order {record.order}")
    if record.precision != "fp32":
        odd.append(f"attacked in {record.precision}")
    return ", ".join(odd)


def settings_text(record: Record) -> str:
    """Return a run's settings that are not its mode's default, such as ``lr 0.02``, or ""."""
    blurred = record.mode != "static" and record.blur not in (None, "none")
    return ", ".join(filter(None, (f"blur {record.blur}" if blurred else "", slot_text(record))))


@lru_cache
def _protocol_settings(text: str) -> str:
    changed = ProtocolSpec.from_json(text).changed
    parts = [] if changed.pop("cascade", True) else ["no cascade"]
    for name, value in changed.items():
        shown = " ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else value
        parts.append(f"{name} {shown}")
    return ", ".join(parts)


def protocols_text(record: Record) -> str:
    """Return the settings of the protocols that are not the default, or ""."""
    return _protocol_settings(record.protocol_settings or "{}")


def whole_text(record: Record) -> str:
    """Return :func:`settings_text` and, marked as such, :func:`protocols_text`; else ""."""
    own = protocols_text(record)
    return "; ".join(filter(None, (settings_text(record), f"protocols: {own}" if own else "")))


def shortened(record: Record) -> bool:
    """Return whether the attack's own budget was overridden."""
    return any((record.iterations, record.queries, record.targets))


def attack_departures(record: Record) -> tuple[str, ...]:
    """Name in few words an attack that is not AutoAttack's standard version; else nothing."""
    if record.attack == ATTACK and not shortened(record):
        return ()
    if NOT_AUTOATTACK not in record.attack_label:
        return (f"{record.attack_label}, {NOT_AUTOATTACK} {ATTACK}",)
    attack = without_hash(record.attack)
    return (f"{'shortened ' if shortened(record) else ''}{attack}, {NOT_AUTOATTACK}",)


def attack_notes(record: Record) -> tuple[str, ...]:
    """Return the footnotes of an accuracy under attack.

    An attack that is not AutoAttack's standard version, and the failed checks of a static
    model: those of a defense are in its verdict.
    """
    departures = attack_departures(record)
    short = NOT_AUTOATTACK in record.attack_label
    label = (without_hash(record.attack_label),)
    return (*(label if departures and short else departures), *check_notes(record))


def check_notes(record: Record) -> tuple[str, ...]:
    """Return the failed checks: a static model's with their sentences, a defense's by name.

    Of a defense every verdict on it says more, and ``dentbench show KEY`` all.
    """
    checks = failed(record.checks)
    if record.mode == "static":
        return tuple(f"check {check.name} failed: {check.sentence}" for check in checks)
    return (f"failed checks: {', '.join(check.name for check in checks)}",) if checks else ()


@lru_cache
def threat_text(norm: str, eps: Fraction) -> str:
    """Return a threat model in words, eps in its shorter exact writing: Linf 8/255, L2 0.2."""
    short = f"{float(eps):.6g}"
    exact = "e" not in short and Fraction(short) == eps
    return f"{norm} {min(format_eps(eps), short, key=len) if exact else format_eps(eps)}"


def threat_departures(record: Record, norm: str, eps: Fraction) -> tuple[str, ...]:
    """Describe a threat model other than the given threat model; nothing when it is equal."""
    own = parse_eps(record.eps)
    return () if record.norm == norm and own == eps else (threat_text(record.norm, own),)


def model_departures(record: Record, *, slot: bool = False) -> tuple[str, ...]:
    """Describe a data set and settings of dent that differ from the published.

    ``slot``: except Delta and the kind of blur, which a row of Table 2 names itself.
    """
    data = () if record.dataset in OFFICIAL_NAMES else (f"not {DATASET} but {record.dataset}",)
    settings = slot_text(record) if slot else settings_text(record)
    return (*data, settings) if settings else data


def count_marks(record: Record) -> tuple[str, ...]:
    """Say that there are fewer images than published; nothing when there are as many."""
    if record.dataset not in OFFICIAL_NAMES:
        return (f"{record.n:,} images",)
    return () if record.n == IMAGES else (f"{record.n:,} of {IMAGES:,} images",)


def natural_marks(record: Record, *, slot: bool = False) -> tuple[str, ...]:
    """Return the footnote of an accuracy without an attack, if it needs one."""
    return _joined(*model_departures(record, slot=slot), *count_marks(record))


def attacked_marks(
    record: Record, norm: str, eps: Fraction, *, slot: bool = False
) -> tuple[str, ...]:
    """Return the footnote of an accuracy under attack, against a published threat model."""
    return _joined(
        *model_departures(record, slot=slot),
        *count_marks(record),
        *threat_departures(record, norm, eps),
        *attack_departures(record),
        *check_notes(record),
    )


def _joined(*parts: str) -> tuple[str, ...]:
    return ("; ".join(parts),) if parts else ()


def comparable(record: Record, norm: str, eps: Fraction) -> bool:
    """Return whether a record's numbers may stand beside published ones of this threat model.

    The data set, the attack, the threat model and dent's settings must be as published;
    the number of images may be smaller and is then marked.
    """
    return not (
        model_departures(record)
        or threat_departures(record, norm, eps)
        or attack_departures(record)
    )
