"""Specs: frozen, torch-free values that hold everything that determines a number.

The hash of an :class:`EvalSpec` is a run's identity: its checkpoint folder and its key in the
results file. *How* a run is carried out (device, folders, workers) is never part of a spec.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from dentbench.errors import SpecError

MODES: Final = ("static", "batch", "instance")
LOSSES: Final = ("shot", "entropy")
STATISTICS: Final = ("running", "batch")
OPTIMIZERS: Final = ("adamod", "adam", "sgd")
NORMS: Final = ("Linf", "L2", "L1")
BATCHINGS: Final = ("declared", "autoattack")

BY_MODE: Any = None
"""Placeholder of a :class:`DentSpec` field whose default depends on the mode."""

# Instance-wise is the released configuration. Batch-wise: 30 steps are the paper's; the loss and
# the statistics follow the paper's text (2.2); all else is not established and ours.
MODE_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "instance": {"steps": 6, "loss": "shot", "statistics": "running", "lr": 6e-3},
        "batch": {"steps": 30, "loss": "entropy", "statistics": "batch", "lr": 6e-3},
    }
)


def require_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise :class:`SpecError` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise SpecError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def require_number(
    name: str, value: object, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    """Raise :class:`SpecError` unless ``value`` is a finite number in ``[low, high]``.

    ``open_low`` excludes ``low`` itself.
    """
    ok = isinstance(value, int | float | Fraction) and not isinstance(value, bool)
    ok = ok and math.isfinite(value) and low <= value <= high  # type: ignore[arg-type,operator]
    if not ok or (open_low and value == low):
        span = f"greater than {low:g}" if open_low else f"at least {low:g}"
        span += "" if math.isinf(high) else f" and at most {high:g}"
        raise SpecError(f"{name} is {value!r}; it must be a finite number, {span}")


def require_count(name: str, value: object, low: int) -> None:
    """Raise :class:`SpecError` unless ``value`` is an integer of at least ``low``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise SpecError(f"{name} is {value!r}; it must be a whole number, at least {low}")


_FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(\d+(?:\.\d+)?)\s*)?")


def parse_eps(text: str) -> Fraction:
    """Return the exact value of an eps written as ``8/255``, ``1.5/255``, ``0.5`` or ``0``.

    Raises :class:`SpecError` for anything else, negative and non-finite values included.
    """
    match = _FRACTION.fullmatch(text)
    if match is None or (match[2] is not None and Fraction(match[2]) == 0):
        raise SpecError(
            f"eps is {text!r}; write a number or a fraction of two numbers, such as 8/255 or 0.5"
        )
    return Fraction(match[1]) / Fraction(match[2] or 1)


def format_eps(eps: Fraction) -> str:
    """Return the shortest exact writing of eps, in 255ths where that is what it is.

    ``parse_eps(format_eps(eps)) == eps`` for every eps that :func:`parse_eps` returns.
    """
    if eps.denominator == 1:
        return str(eps.numerator)
    in_255ths = eps * 255
    for scaled, suffix in ((in_255ths, "/255"), (eps, "")):
        decimal = f"{float(scaled):.10g}"
        if "e" not in decimal and len(decimal) <= 6 and Fraction(decimal) == scaled:
            return decimal + suffix
    return f"{eps.numerator}/{eps.denominator}"


@dataclass(frozen=True, kw_only=True)
class DentSpec:
    """One configuration of dent; the defaults are the released one (METHOD: 263b6b1).

    ``steps`` >= 0 updates are made per batch; ``lr`` > 0 is the optimizer's. ``loss`` is "shot"
    (entropy minus the entropy of the batch-mean prediction) or "entropy"; ``statistics`` is
    "running" (the training ones, frozen) or "batch" (re-estimated at every forward). Fields left
    out take the mode's default. Raises :class:`~dentbench.errors.SpecError` for bad values.
    """

    mode: str = "instance"
    steps: int = BY_MODE
    loss: str = BY_MODE
    statistics: str = BY_MODE
    optimizer: str = "adamod"
    lr: float = BY_MODE
    beta1: float = 0.99
    beta2: float = 0.999
    beta3: float = 0.6
    optimizer_eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, tuple(MODE_DEFAULTS))
        for name, default in MODE_DEFAULTS[self.mode].items():
            if getattr(self, name) is BY_MODE:
                object.__setattr__(self, name, default)
        require_count("steps", self.steps, 0)
        require_choice("loss", self.loss, LOSSES)
        require_choice("statistics", self.statistics, STATISTICS)
        require_choice("optimizer", self.optimizer, OPTIMIZERS)
        require_number("lr", self.lr, 0, open_low=True)
        for name in ("beta1", "beta2", "beta3", "momentum"):
            require_number(name, getattr(self, name), 0, 1 - 1e-12)
        require_number("optimizer_eps", self.optimizer_eps, 0, open_low=True)
        if self.nesterov not in (True, False):
            raise SpecError(f"nesterov is {self.nesterov!r}; allowed: true, false")

    @property
    def separable(self) -> bool:
        """Whether each image's prediction is independent of its batch mates.

        True for zero steps, and for one affine pair per image with a per-image loss and frozen
        statistics; the number of images that the mean loss is over is then a fixed constant.
        """
        alone = self.mode == "instance" and self.loss == "entropy" and self.statistics == "running"
        return alone or self.steps == 0


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """The threat model and the attack: a name of ``attacks/catalogue.py``, a norm and an eps.

    ``eps`` is an exact fraction of the [0, 1] pixel range (in L2 and L1 the norm's radius).
    ``iterations``, ``queries`` and ``targets`` override the attack's own budget, and with any of
    them a preset is no longer AutoAttack.
    """

    name: str = "standard"
    norm: str = "Linf"
    eps: Fraction = Fraction(8, 255)
    iterations: int | None = None
    queries: int | None = None
    targets: int | None = None

    def __post_init__(self) -> None:
        require_choice("norm", self.norm, NORMS)
        require_number("eps", self.eps, 0)
        if not isinstance(self.eps, Fraction):
            raise SpecError(
                f"eps is {self.eps!r}; give an exact fraction, such as Fraction(8, 255)"
            )
        for name in ("iterations", "queries", "targets"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), 1)

    @property
    def shortened(self) -> bool:
        """Whether the attack's own budget is overridden."""
        return any((self.iterations, self.queries, self.targets))


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model: its canonical name and the SHA-256 of its weights."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """A slice of a data set: ``count`` images from number ``first`` on, and their SHA-256."""

    name: str
    sha256: str
    first: int
    count: int

    def __post_init__(self) -> None:
        require_count("first", self.first, 0)
        require_count("examples", self.count, 1)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How the slice is cut into the batches that the defense sees.

    "declared": consecutive batches of ``size``; the defense never sees any other. "autoattack":
    AutoAttack packs and re-packs the whole slice as it likes, for comparison.
    """

    size: int = 128
    batching: str = "declared"

    def __post_init__(self) -> None:
        require_count("batch size", self.size, 1)
        require_choice("batching", self.batching, BATCHINGS)

    def ranges(self, count: int) -> tuple[range, ...]:
        """Return the units of work: the image ranges that are attacked together."""
        if self.batching == "autoattack":
            return (range(count),)
        return tuple(
            range(start, min(start + self.size, count)) for start in range(0, count, self.size)
        )


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """Everything that determines one record; ``defense`` is None for the static model."""

    model: ModelSpec
    data: DataSpec
    batches: BatchPlan = BatchPlan()
    defense: DentSpec | None = None
    attack: AttackSpec = AttackSpec()
    seed: int = 0

    def __post_init__(self) -> None:
        require_count("seed", self.seed, 0)

    @property
    def mode(self) -> str:
        """ "static", "batch" or "instance"."""
        return "static" if self.defense is None else self.defense.mode

    @property
    def separable(self) -> bool:
        """Whether each image's answer is independent of its batch mates."""
        return self.defense is None or self.defense.separable

    def key(self) -> str:
        """Return the run's identity: 16 hexadecimal digits of a hash of every field."""
        return digest(asdict(self))[:16]


def digest(value: object) -> str:
    """Return the SHA-256, in hexadecimal, of a value of plain types in canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> str:
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    raise TypeError(f"a spec holds a {type(value).__name__}, which has no canonical writing")


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2**31) that depends on every part and on their order."""
    return int(digest([str(part) for part in parts])[:15], 16) % 2**31


def field_names(spec: type) -> tuple[str, ...]:
    """Return the names of a spec class's fields, in order."""
    return tuple(field.name for field in fields(spec))
