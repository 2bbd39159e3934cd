"""Parse choices written as texts: a threat model, a setting of dent, a user's model.

Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final, TypeAlias

from dentbench.errors import SpecError
from dentbench.registry import Registry
from dentbench.spec.evaluation import (
    DentSpec,
    ProtocolSpec,
    field_names,
    format_eps,
    parse_eps,
)
from dentbench.validation import require_number, suggestion
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.data_choice import DataChoice
from dentbench.zoo.images import corruptions


def parse_threat(text: str) -> tuple[str, str]:
    """Return norm and eps, as written, of a threat model such as "Linf:1.5/255" or "L2:0.2"."""
    norm, colon, eps = text.partition(":")
    if not (norm and colon and eps):
        raise SpecError(f"threat is {text!r}; write NORM:EPS, such as Linf:1.5/255 or L2:0.2")
    return norm, eps


GRID_SIZE: Final = 1000
"""How many values a grid has at most."""

_RANGE: Final = re.compile(r"([\d.]+)\.\.([\d.]+)(/[\d.]+)?(?::([\d.]+))?")


def parse_eps_grid(text: str) -> tuple[str, ...]:
    """Return the values of eps, ascending, that "0..16/255", "0..0.3:0.05" or "0,8/255" name.

    A range has both ends; a step after a colon counts in the numerator's units, 1 if left out.
    Raises :class:`~dentbench.errors.SpecError` for anything else.
    """
    hint = "write a range such as 0..16/255 or 0..0.3:0.05, or values such as 0,4/255,8/255"
    return tuple(map(format_eps, _grid("eps", text, hint)))


def parse_steps_grid(text: str) -> tuple[int, ...]:
    """Return the numbers of steps, ascending, that "0..6", "0..30:5" or "1,3,6" name."""
    hint = "write a range such as 0..6 or 0..30:5, or values such as 1,3,6"
    values = _grid("steps", text, hint)
    if any(value.denominator != 1 for value in values):
        raise SpecError(f"--steps-grid is {text!r}; {hint}, whole numbers")
    return tuple(map(int, values))


def _grid(name: str, text: str, hint: str) -> list[Fraction]:
    values: set[Fraction] = set()
    for part in text.replace(",", " ").split():
        match = _RANGE.fullmatch(part)
        try:
            if match is None:
                values.add(parse_eps(part))
                continue
            low, high, step = (parse_eps(end) for end in (match[1], match[2], match[4] or "1"))
            scale = parse_eps(f"1{match[3] or ''}")
            count = (high - low) // step + 1 if step else 0
        except SpecError:
            raise SpecError(f"--{name}-grid is {text!r}; {hint}") from None
        if not 0 < count <= GRID_SIZE:
            raise SpecError(
                f"--{name}-grid is {text!r}, which has no 1 to {GRID_SIZE} values; {hint}"
            )
        values |= {(low + number * step) * scale for number in range(count)}
    if not values:
        raise SpecError(f"--{name}-grid is {text!r}; {hint}")
    return sorted(values)


def is_corrupted(dataset: str | None) -> bool:
    """Return whether a data set's name is that of a corruption set."""
    return dataset is not None and dataset in DATASETS and bool(DATASETS[dataset].corruptions)


def parts_of(
    data: DataChoice, names: Sequence[str] = (), severities: Sequence[int] = ()
) -> list[DataChoice]:
    """Return the images of each study: of a corruption set one for each corruption and severity.

    Raises :class:`~dentbench.errors.SpecError` for those that there are not.
    """
    if not is_corrupted(data.dataset):
        if names or severities:
            raise SpecError("--corruption and --severity are for cifar10-c and cifar100-c")
        return [data]
    chosen = corruptions.chosen(names, severities)
    return [replace(data, corruption=name, severity=severity) for name, severity in chosen]


Normalization: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, in units of the [0, 1] pixel range."""

CHANNELS: Final = (1, 3)
"""How many channels images may have."""


@dataclass(frozen=True, kw_only=True)
class OwnModel:
    """A user's settings of a model beyond its name.

    ``arch``: the network of a checkpoint file, a card's name or ``module:callable``.
    ``normalize``: mean and standard deviation, in front of a user's model of normalized images.
    ``expect_clean``: the natural accuracy, in percent, that it is to have on the data. Raises
    :class:`~dentbench.errors.SpecError` for bad values.
    """

    arch: str | None = None
    normalize: Normalization | None = None
    expect_clean: float | None = None

    def __post_init__(self) -> None:
        if self.normalize is not None:
            mean, std = self.normalize
            if len(mean) != len(std) or len(mean) not in CHANNELS:
                raise SpecError(
                    f"normalize has {len(mean)} means and {len(std)} standard deviations; "
                    "give one of each per channel, 1 or 3"
                )
            for value in mean:
                require_number("mean of normalize", value, -10, 10)
            for value in std:
                require_number("standard deviation of normalize", value, 0, 10, open_low=True)
        if self.expect_clean is not None:
            require_number("expect-clean", self.expect_clean, 0, 100)
            if 0 < self.expect_clean <= 1:
                raise SpecError(
                    f"expect-clean is {self.expect_clean:g}; it is in percent, such as 89.7"
                )


def require_channels(normalize: Normalization | None, channels: int) -> None:
    """Raise :class:`~dentbench.errors.SpecError` where there are constants of other channels."""
    if normalize is not None and len(normalize[0]) not in (1, channels):
        kind = "gray" if channels == 1 else "color"
        raise SpecError(
            f"normalize has {len(normalize[0])} numbers, and the images are {kind}, of {channels} "
            f"channel{'s' if channels > 1 else ''}; give one mean and one standard deviation for "
            "each channel, or one for all"
        )


def parse_normalize(texts: Sequence[str] | None) -> Normalization | None:
    """Return mean and standard deviation written as "0.49,0.48,0.45" each, or None for None."""
    if not texts:
        return None
    try:
        mean, std = (tuple(float(part) for part in text.split(",")) for text in texts)
    except ValueError:
        raise SpecError(
            f"normalize is {' '.join(texts)!r}; write MEAN STD, a number per channel with commas "
            "between, such as 0.4914,0.4822,0.4465 0.2470,0.2435,0.2616"
        ) from None
    return mean, std


SET_NAMES: Final = (
    *("beta1", "beta2", "beta3", "optimizer_eps", "momentum", "nesterov"),
    *("gamma_lr", "beta_lr"),
)
"""The DentSpec fields that have no option of their own and are given with ``--set``."""


def parse_settings(texts: Sequence[str], *, once: bool = False) -> dict[str, Any]:
    """Return the values of each field of :data:`SET_NAMES` given as "NAME=VALUE", in order.

    ``once``: the one value of each, not a list. Raises :class:`~dentbench.errors.SpecError` for
    an unknown name, a value that is no number (for ``nesterov``: neither true nor false), or a
    second value where there is to be one.
    """
    values_of: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if name not in SET_NAMES or not equals:
            own = name in field_names(DentSpec) and name not in SET_NAMES
            raise SpecError(
                f"--set {text!r}: {name} has an option of its own, --{name.replace('_', '-')}"
                if own
                else f"--set {text!r}: write NAME=VALUE, NAME one of {', '.join(SET_NAMES)}"
                f"{suggestion(name, SET_NAMES)}"
            )
        values_of.setdefault(name, []).append(_value_of(name, value))
    twice = [name for name, values in values_of.items() if len(values) > 1]
    if once and twice:
        raise SpecError(
            f"--set gives {', '.join(twice)} more than once; dentbench ablate takes grids"
        )
    return {name: values[0] for name, values in values_of.items()} if once else dict(values_of)


_TEXTS: Final = frozenset(
    {"mode", "delta", "layers", "loss", "statistics", "blur", "padding", "optimizer"}
)
"""The settings of dent that are names; ``steps`` is a whole number, the others numbers."""


def parse_dent(own: Mapping[str, str]) -> dict[str, Any]:
    """Return dent's settings written after its name, as in "dent,steps=2,lr=0.01", by field.

    Raises :class:`~dentbench.errors.SpecError` for an unknown name or a value of a wrong type.
    """
    known = field_names(DentSpec)
    values: dict[str, Any] = {}
    for name, text in own.items():
        if name not in known:
            raise SpecError(
                f"dent has no setting {name!r}; its settings: {', '.join(known)}"
                f"{suggestion(name, known)}"
            )
        if name in _TEXTS:
            values[name] = text
        elif name == "steps":
            if not text.isdecimal():
                raise SpecError(f"steps of dent is {text!r}; it must be a whole number, at least 0")
            values[name] = int(text)
        else:
            values[name] = _value_of(name, text, "dent,")
    return values


PROTOCOL_SETTINGS: Final[Registry[str]] = Registry("protocol setting")
"""The ProtocolSpec fields that are given with ``--protocol-set``; the cascade has an option."""
for _name in field_names(ProtocolSpec):
    if _name != "cascade":
        PROTOCOL_SETTINGS.add(_name, _name)


def parse_protocol_settings(texts: Sequence[str], *, cascade: bool = True) -> ProtocolSpec:
    """Return the protocols' settings, each given as "NAME=VALUE".

    A value is a whole number; of ``fractions``, numbers separated by commas; of ``eot``, a word.
    Raises :class:`~dentbench.errors.SpecError` for an unknown name or a bad value, or one given
    twice.
    """
    settings_of: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if name.lower() == "cascade":
            raise SpecError(f"--protocol-set {text!r}: the cascade has an option, --no-cascade")
        name = PROTOCOL_SETTINGS.canonical(name.replace("-", "_"))
        if not (equals and value):
            raise SpecError(f"--protocol-set {text!r}: write NAME=VALUE, such as rounds=5")
        if name in settings_of:
            raise SpecError(f"--protocol-set gives {name} more than once")
        settings_of[name] = _protocol_value(name, value)
    return ProtocolSpec(cascade=cascade, **settings_of)


def _protocol_value(name: str, text: str) -> Any:
    if name == "eot":
        return text.lower()
    several = name == "fractions"
    try:
        return tuple(map(float, text.split(","))) if several else int(text)
    except ValueError:
        kind = "numbers separated by commas" if several else "a whole number"
        raise SpecError(f"--protocol-set {name}={text}: it is {kind}") from None


def _value_of(name: str, text: str, before: str = "--set ") -> Any:
    if name == "nesterov":
        if text.lower() not in ("true", "false"):
            raise SpecError(f"{before}nesterov={text}: it is true or false")
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{before}{name}={text}: {text!r} is not a number") from None
