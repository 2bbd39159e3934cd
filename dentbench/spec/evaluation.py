"""Specs: frozen, torch-free values that hold everything that determines a number.

The hash of an :class:`EvalSpec` is a run's identity: its checkpoint folder and its key in the
results file. *How* a run is carried out (device, folders, workers) is never part of a spec.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from functools import cached_property
from pathlib import PurePath
from typing import Final

from dentbench.errors import SpecError
from dentbench.spec.attack import NORMS, AttackSpec, exact_eps, format_eps, parse_eps
from dentbench.spec.attack_plans import NO_ATTACK
from dentbench.spec.defense import DefenseSpec
from dentbench.spec.dent import DentSpec
from dentbench.spec.protocol import ProtocolSpec
from dentbench.validation import require_choice, require_count, require_number

__all__ = [
    "BATCHINGS",
    "MODES",
    "NORMS",
    "NO_ATTACK",
    "ORDERS",
    "AttackSpec",
    "BatchPlan",
    "DataSpec",
    "DefenseSpec",
    "DentSpec",
    "EvalSpec",
    "ModelSpec",
    "ProtocolSpec",
    "derive_seed",
    "digest",
    "exact_eps",
    "field_names",
    "format_eps",
    "parse_eps",
    "require_choice",
    "require_count",
    "require_number",
    "require_order",
]

MODES: Final = ("static", "batch", "instance")
PRECISIONS: Final = ("fp32", "tf32", "bf16")
BATCHINGS: Final = ("declared", "autoattack")
ORDERS: Final = ("given", "label-windows:N")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model: its canonical name, the SHA-256 of its weights, and that of its code.

    ``code``: of everything that decides its answers beside the weights, such as the source of its
    classes, its settings and its architecture.
    """

    name: str
    sha256: str
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """A slice of a data set: ``count`` images from number ``first`` on, and their SHA-256.

    ``order`` in which they are cut into batches: "given", or "label-windows:N" for the images
    sorted by label within windows of N >= 2 consecutive images, which takes the balance of classes
    from a batch (Chen et al., ICLR 2022, with 256). The hash is over the images in this order.
    """

    name: str
    sha256: str
    first: int
    count: int
    order: str = "given"

    def __post_init__(self) -> None:
        require_count("first", self.first, 0)
        require_count("examples", self.count, 1)
        object.__setattr__(self, "order", require_order(self.order))

    @property
    def window(self) -> int | None:
        """The N of "label-windows:N"; None for the given order."""
        return None if self.order == "given" else int(self.order.partition(":")[2])


def require_order(order: str) -> str:
    """Return the one writing of an order of images, or raise :class:`SpecError`."""
    kind, _, size = order.partition(":")
    if order == "given":
        return order
    if kind != "label-windows" or not size.isdecimal() or int(size) < 2:
        raise SpecError(
            f"order is {order!r}; allowed: {' or '.join(ORDERS)}, with N at least 2, "
            "such as label-windows:256"
        )
    return f"{kind}:{int(size)}"


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
    """Everything that determines one record; ``defense`` is None for the static model.

    Beside dent's spec it may be another defense's: both have ``mode``, ``steps`` and ``separable``.
    ``precision``: of the attacks, one of :data:`PRECISIONS`; their points are always judged in
    fp32.
    """

    model: ModelSpec
    data: DataSpec
    batches: BatchPlan = BatchPlan()
    defense: DentSpec | DefenseSpec | None = None
    attack: AttackSpec = field(default_factory=AttackSpec)
    protocols: ProtocolSpec = field(default_factory=ProtocolSpec)
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        require_count("seed", self.seed, 0)
        require_choice("precision", self.precision, PRECISIONS)

    @property
    def mode(self) -> str:
        """One of "static", dent's "batch" or "instance", and "other" for any other defense."""
        return "static" if self.defense is None else self.defense.mode

    @property
    def label(self) -> str:
        """A short name: the mode, or the name of a defense that is not dent."""
        if isinstance(self.defense, DefenseSpec):
            return self.defense.title or self.defense.name
        return self.mode

    @property
    def separable(self) -> bool:
        """Whether each image's answer is independent of its batch mates."""
        return self.defense is None or self.defense.separable

    def key(self) -> str:
        """Return the run's identity: 16 hexadecimal digits of a hash of all that determines it.

        These are all fields, and the plan that the attack's name stands for. The settings of the
        protocols are no part of the static model's: see :attr:`static`.
        """
        return self._key

    @cached_property
    def _key(self) -> str:
        determined = asdict(self.static if self.defense is None else self)
        for part in ("model", "attack", "defense"):
            if "name" in (determined[part] or {}):
                determined[part]["name"] = _without_folder(determined[part]["name"])
        if isinstance(self.defense, DefenseSpec):
            for name in (
                "title",
                "published_protocol",
                "views",
                "source",
            ):  # its description changes no number
                del determined["defense"][name]
            if not self.defense.random:
                del determined["defense"]["random"]  # keys from before this field existed stay
        elif self.defense is not None and self.defense.layers == DentSpec.layers:
            del determined["defense"]["layers"]  # keys from before there was a choice stay
        plan = self.attack.resolved
        if "parts" in plan:
            plan["parts"] = [*map(_without_folder, plan["parts"])]
        return digest({**determined, "plan": plan})[:16]

    @cached_property
    def static(self) -> EvalSpec:
        """The static model's spec, under its own published attack."""
        return replace(self, defense=None, protocols=ProtocolSpec())

    @cached_property
    def counterpart(self) -> EvalSpec:
        """The static model's spec under the counterparts of a defense's protocols."""
        return replace(self, defense=None)


def _without_folder(name: str) -> str:
    """Return how a callable counts: ``folder/net.py:make`` is ``net:make`` wherever it lies."""
    place, _, attribute = name.rpartition(":")
    return f"{PurePath(place).stem}:{attribute}" if place.endswith(".py") else name


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
