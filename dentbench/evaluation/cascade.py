"""Hand a stage the points of the stages before it, and the images they broke."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.catalogue import (
    COUNTERPARTS,
    COUPLED_VERSION,
    NATURAL_VERSION,
    PROTOCOLS,
    STARTING_POINTS,
)
from dentbench.defenses.catalogue import DEFENSES, DENT
from dentbench.records.checkpoint import Points, RunFolder
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome
from dentbench.spec.evaluation import DefenseSpec, EvalSpec


def earlier_stages(spec: EvalSpec, stage: str) -> tuple[str, ...]:
    """Return the stages that must be there before ``stage``, in order; none without a cascade."""
    if stage not in PROTOCOLS or not spec.protocols.cascade:
        return ()
    after = PROTOCOLS[stage].after
    if spec.defense is None:  # the static model starts from its own attack's points
        return tuple(PUBLISHED if name == "transfer" else name for name in after)
    return after


def has_counterpart(spec: EvalSpec, stage: str) -> bool:
    """Return whether a protocol on a defense is run on the static model too."""
    return spec.defense is not None and stage in COUNTERPARTS


def keeps_points(spec: EvalSpec, stage: str) -> bool:
    """Return whether a stage must store its points for others to start from."""
    if spec.defense is None:  # these points are shown to the defense itself
        return stage == PUBLISHED or (spec.protocols.cascade and stage in COUNTERPARTS)
    return spec.protocols.cascade and stage in STARTING_POINTS


def versions(spec: EvalSpec, stage: str) -> dict[str, int]:
    """Return the numbers of the code that decides a stage's outcomes, by name.

    They are of the stage itself, of the stages that it goes on from, of a built-in defense, and of
    how coupled images are judged.
    """
    numbers = {NATURAL: NATURAL_VERSION}
    if spec.defense is not None:
        name = spec.defense.name if isinstance(spec.defense, DefenseSpec) else DENT
        if name in DEFENSES:
            numbers[name] = DEFENSES[name].version
    for earlier in earlier_stages(spec, stage):
        numbers |= versions(spec, earlier)
    if stage in PROTOCOLS:
        numbers[stage] = PROTOCOLS[stage].version
        if stage != PUBLISHED and not spec.separable:
            numbers["coupled"] = COUPLED_VERSION
        if PROTOCOLS[stage].needs_static:
            numbers[PUBLISHED] = PROTOCOLS[PUBLISHED].version
        if has_counterpart(spec, stage):
            numbers |= versions(spec.counterpart, stage)
    return numbers


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """The inheritance of a stage: see :class:`~dentbench.attacks.protocols.base.AttackContext`."""

    counterpart: Points | None = None
    starts: tuple[Points, ...] = ()
    settled_by: tuple[str, ...] = ()
    settled_points: Points | None = None


NOTHING: Final = Inheritance()


def inheritance(
    folder: RunFolder, static: RunFolder, spec: EvalSpec, stage: str, unit: int
) -> Inheritance:
    """Return a stage's inheritance on a unit of work; the stages before it must be stored.

    An image that several stages broke is settled by the first. ``static``: the static model's
    folder, where the points of the stage's counterpart are.
    """
    natural = folder.load(NATURAL, unit)
    assert natural is not None
    settled_by = [""] * len(natural.correct)
    starts: list[Points] = []
    settled_points = None
    for name in earlier_stages(spec, stage):
        outcome = folder.load(name, unit, with_points=True)
        assert outcome is not None
        points = folder.load_points(name, unit)
        settled_points = points.copy() if settled_points is None else settled_points
        starts.append(points)
        for row, broken in enumerate(_broken(spec, natural, outcome)):
            if broken and not settled_by[row]:
                settled_by[row] = name
                settled_points[row] = points[row]
    counterpart = None
    if has_counterpart(spec, stage) and spec.protocols.cascade:
        counterpart = static.load_points(stage, unit)
    return Inheritance(
        counterpart=counterpart,
        starts=tuple(starts),
        settled_by=tuple(settled_by),
        settled_points=settled_points,
    )


def _broken(spec: EvalSpec, natural: BatchOutcome, outcome: BatchOutcome) -> list[bool]:
    """Return which images a stage broke; by a random defense, those right in <= 10% of draws."""
    if outcome.rights:
        return [10 * right <= spec.protocols.draws_judged for right in outcome.rights]
    return [
        right and not kept for right, kept in zip(natural.correct, outcome.correct, strict=True)
    ]


def corrected(judged: Tensor, settled_by: tuple[str, ...], elsewhere: Tensor | None) -> Tensor:
    """Return a stage's flags: right here, right elsewhere, and not broken before."""
    flags = judged.clone()
    if elsewhere is not None:
        flags &= elsewhere
    if settled_by:
        flags &= torch.tensor([not name for name in settled_by], device=flags.device)
    return flags


def neighbours(spec: EvalSpec, unit: int) -> list[int]:
    """Return the images that may be shown beside a unit's images: those of the next four units."""
    total = spec.data.count
    unit_rows = spec.batches.ranges(total)[unit]
    count = min(4 * spec.batches.size, total - len(unit_rows))
    return [(unit_rows.stop + offset) % total for offset in range(count)]
