"""List the ascents that each protocol runs, from which its cost follows; no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dentbench.attacks.catalogue import BLACK_BOXES
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import DentSpec, EvalSpec


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """A run of the base attack.

    ``loss``: "ce", "margin" or "dlr". ``rank``: the target is the wrong class of this rank, 0
    being the most probable; None for untargeted. ``start``: "best", the best points so far,
    or "random".
    """

    loss: str
    iterations: int
    rank: int | None = None
    start: str = "random"


def iterations_of(spec: EvalSpec) -> int:
    """Return the iterations of a full ascent: the protocols' own, or those of the attack."""
    own = spec.protocols.iterations or spec.attack.iterations
    return own or ATTACKS[spec.attack.name].iterations or 100


def targets_of(spec: EvalSpec, classes: int) -> int:
    """Return how many target classes there are: the protocols' own number, or the attack's."""
    own = spec.protocols.targets or spec.attack.targets
    return min(own or ATTACKS[spec.attack.name].targets or 9, classes - 1)


def queries_of(spec: EvalSpec) -> int:
    """Return the queries of the protocols scores and decision.

    Alone they are twice Square's own (5,000 in AutoAttack standard). In a cascade that would cost
    more than all other protocols together, so they are 5 for each iteration of the attack (500 in
    standard, whose published protocol has Square's 5,000 among its parts).
    """
    if spec.protocols.queries is not None:
        return spec.protocols.queries
    if spec.protocols.cascade:
        return 5 * iterations_of(spec)
    return 2 * (spec.attack.queries or 50 * iterations_of(spec))


WARM_TARGETS = 3
"""The number of targets that FPA and GMSA ascend towards from the best points, by default."""

MOST_LARGER_STEPS = 3
"""The most steps of a surrogate process, whose purpose is to be cheap."""

LOOKS = 8
"""How many answers of a random defense a point is judged by while it is searched for."""

LOOK_EVERY = 50
"""The queries by labels alone between two looks at a random defense, and reports of progress."""

WITNESSES = 3
"""The most further batches in which a protocol's end shows images of a coupled batch broken."""

KEPT_BATCHES = 16
"""The most recombined batches that are kept, because they break images."""

POISONED = 4
"""The most batches before a unit that are poisoned."""

PARTS = {"shuffled": 2, "label-sorted": 2, "among-natural": 8, "alone": 1}
"""How many batches an image costs in each composition of other batches."""


def ascents_of(spec: EvalSpec, stage: str, classes: int) -> tuple[Ascent, ...]:
    """Return the ascents of a stage (for FPA and GMSA: of each round; few-steps: of each defense).

    Alone, every view is attacked as AutoAttack would: CE, then targeted DLR for each target, each
    from a random start. In a cascade good points are there already, and a few warm ascents do.
    """
    iterations, targets = iterations_of(spec), targets_of(spec, classes)
    if stage in ("fpa", "gmsa-avg", "gmsa-min"):
        return _chen(spec, iterations, targets)
    if not spec.protocols.cascade:
        ranks = range(targets)
        first = Ascent(loss="ce", iterations=iterations)
        return (first, *(replace(first, loss="dlr", rank=rank) for rank in ranks))
    share, shapes = _WARM[stage]
    steps = max(round(share * iterations), 1)
    ascents = [
        Ascent(loss=loss, iterations=steps, rank=rank, start=start) for loss, rank, start in shapes
    ]
    return tuple(a for a in ascents if a.rank is None or a.rank < targets)


def maximal_ascents(spec: EvalSpec) -> tuple[Ascent, ...]:
    """Return the ascents of the static model's margin that transfer makes, beside its points.

    Their iterations are half of the attack's, whose own points they start from or stand beside.
    """
    own = spec.attack.iterations or ATTACKS[spec.attack.name].iterations or 100
    steps = max(round(own / 2), 1)
    shapes = ((None, "best"), (0, "random"), (1, "random"))
    return tuple(
        Ascent(loss="margin", iterations=steps, rank=rank, start=start) for rank, start in shapes
    )


# Share of the attack's iterations, then loss, rank of the target and start of every ascent.
_WARM = {
    "surrogate": (
        1.0,
        (
            ("ce", None, "best"),
            ("dlr", 0, "random"),
            ("dlr", 1, "random"),
        ),
    ),
    "warm": (1.0, (("dlr", 0, "best"), ("margin", None, "best"), ("ce", None, "best"))),
    "few-steps": (0.25, (("dlr", 0, "best"),)),
    "bpda": (1.0, (("dlr", 0, "best"),)),
    "surrogate-process": (0.5, (("dlr", 0, "best"),)),
    "trajectory": (0.5, (("dlr", 0, "best"),)),
    "unrolled": (1.0, (("dlr", 0, "best"), ("margin", None, "best"))),
    "eot": (0.5, (("dlr", 0, "best"),)),
}

BUDGETED = (*_WARM, "fpa", "gmsa-avg", "gmsa-min", *BLACK_BOXES, "batch-mates", "poisoned-stream")
"""The protocols whose cost is known before they are run, published and transfer aside."""


def _chen(spec: EvalSpec, iterations: int, targets: int) -> tuple[Ascent, ...]:
    """The margin, untargeted from random starts and towards every target, as in Chen et al."""
    cascade, restarts = spec.protocols.cascade, spec.protocols.restarts
    steps = max(iterations // 2, 1) if cascade else iterations
    if cascade and spec.protocols.targets is None:
        targets = min(targets, WARM_TARGETS)
    if restarts is None:
        restarts = 0 if cascade else max(round(5 * min(iterations / 100, 1)), 1)
    cold = Ascent(loss="margin", iterations=steps)
    first = replace(cold, start="best") if cascade else cold
    untargeted = [*([first] if cascade else []), *[cold] * restarts]
    return (*untargeted, *(replace(first, rank=rank) for rank in range(targets)))


def fewer_steps(spec: EvalSpec) -> tuple[int, ...]:
    """Return the numbers of adaptation steps, below the defense's own, that few-steps attacks."""
    steps = 0 if spec.defense is None else spec.defense.steps
    return tuple(sorted({count for count in (1, steps // 2) if 0 < count < steps}))


def poisoning_iterations(spec: EvalSpec) -> int:
    """Return the iterations on each poisoned batch."""
    return max(round(iterations_of(spec) / 4), 1)


def larger_steps(spec: EvalSpec) -> int:
    """Return how many steps the surrogate process has in place of the defense's own: a third."""
    steps = 0 if spec.defense is None else spec.defense.steps
    return max(min(steps // 3, MOST_LARGER_STEPS), 1)


def invading_mates(fraction: float, images: int) -> int:
    """Return how many of a batch's images are malicious: 1 at least, never all."""
    return min(max(round(fraction * images), 1), images - 1)


def recombined_batches(spec: EvalSpec) -> int:
    """Return how many recombined batches a coupled defense is asked about: 300 in standard.

    Of instance-wise dent, whose images share a term of the loss alone, a third of them.
    """
    return (1 if _is_weakly_coupled(spec) else 3) * iterations_of(spec)


def compositions_attacked(spec: EvalSpec) -> tuple[str, ...]:
    """Return the compositions that are attacked: not images alone, whose statistics mean little.

    Of instance-wise dent, whose images share a term of the loss alone, shuffled batches.
    """
    if _is_weakly_coupled(spec):
        return ("shuffled",)
    return tuple(name for name in PARTS if name != "alone")


def _is_weakly_coupled(spec: EvalSpec) -> bool:
    return isinstance(spec.defense, DentSpec) and spec.defense.mode == "instance"


def invading_iterations(spec: EvalSpec) -> int:
    """Return the iterations of the distribution-invading attack for each share."""
    return max(iterations_of(spec) // 4, 1)
