"""The planted defenses as data: the truth of each, and what may be said of it.

Truth is against the same static model: ``gain`` (more images robust), ``none`` (as many) or
``less``. Never may ``holds`` be said without a gain, ``weaker than static`` but of less, nor
``no gain`` of a gain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal

from torch import Tensor, nn

from tests.panel import (
    ball_parts,
    company,
    corners,
    elsewhere,
    harming,
    honest,
    masking,
    memory,
    random_answers,
    subjects,
    telling,
)
from tests.panel.subjects import COUNT, EPS, planted, projected, robust_count

Truth = Literal["gain", "none", "less"]

MAY_SAY: Final[dict[Truth, frozenset[str]]] = {
    "gain": frozenset({"holds", "undecided"}),
    "none": frozenset({"no gain", "undecided"}),
    "less": frozenset({"no gain", "weaker than static", "undecided"}),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The network that a defense is planted around, and its attack."""

    data: Callable[[], tuple[nn.Module, Tensor, Tensor]] = planted
    count: int = COUNT
    batch: int = COUNT
    attack: str = "quick"
    iterations: int | None = 10
    norm: str = "Linf"
    eps: Fraction = EPS
    precision: str = "fp32"


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A planted defense.

    ``robust()``: in how many images, at least and at most, its expected answer cannot be, or can
    be, turned over; None where no closed form is known. ``says``: the verdicts that are right
    here, fewer than the truth alone allows. ``fails``: checks that must fail. ``broken_by``:
    protocols one of which must bring it down to its truth. ``difference``: what it and the static
    model must differ by, in images, where that is known. ``honest``: no other check may fail.
    ``like``: the label of the plant of its kind that every run of the tests tries; this one is
    tried by ``make panel``.
    """

    defense: type[nn.Module]
    truth: Truth
    says: tuple[str, ...] = ()
    robust: Callable[[], tuple[int, int]] | None = None
    fails: frozenset[str] = frozenset()
    broken_by: frozenset[str] = frozenset()
    setting: Setting = Setting()
    name: str = ""
    difference: int | None = None
    honest: bool = False
    like: str = ""

    @property
    def label(self) -> str:
        """The name of its test."""
        return self.name or self.defense.__name__

    @property
    def allowed(self) -> frozenset[str]:
        """The verdicts that may be given."""
        return frozenset(self.says) & MAY_SAY[self.truth] if self.says else MAY_SAY[self.truth]


def exactly(count: Callable[[], int]) -> Callable[[], tuple[int, int]]:
    return lambda: (count(), count())


def as_static(count: int = COUNT) -> Callable[[], tuple[int, int]]:
    return exactly(lambda: robust_count(planted()[0], count))


def as_projected(count: int = COUNT) -> Callable[[], tuple[int, int]]:
    return exactly(lambda: robust_count(projected(planted()[0]), count))


STATIC = as_static()


def as_weak() -> tuple[int, int]:
    """As many as the network with other rough weights, which no attack may be shown."""
    count = robust_count(subjects.otherwise_rough(), 48)
    return count, count


def remembering() -> tuple[int, int]:
    """No more than static; an attacker may make a memory keep a wrong label first."""
    return 0, STATIC()[1]


FEW: Final = Setting(count=24, batch=24, attack="standard", iterations=None)
"""AutoAttack standard on few images, as ``holds`` requires."""

DIGITS: Final = Setting(
    data=lambda: subjects.digits(12),
    count=12,
    batch=12,
    iterations=5,
    eps=subjects.DIGITS_EPS,
)
WAVY: Final = Setting(data=lambda: (subjects.wavy(), *planted()[1:]), count=48, batch=48)

DEAR: Final = Setting(count=48, batch=48)
"""Fewer images, where every answer takes long: what is said may be undecided all the same."""

ON_DISK: Final = Setting(count=24, batch=24, iterations=5)
"""Fewer calls, where each of them reads a file and writes it."""


MEMORY: Final = (
    Plant(
        defense=memory.ProcessMemory,
        truth="none",
        robust=remembering,
        setting=DEAR,
        fails=frozenset({"gradient", "ascent"}),
    ),
    Plant(
        defense=memory.ClassMemory,
        truth="none",
        robust=remembering,
        setting=DEAR,
        like="ProcessMemory",
    ),
    Plant(
        defense=memory.DiskMemory,
        truth="none",
        robust=remembering,
        setting=ON_DISK,
        fails=frozenset({"gradient", "ascent"}),
    ),
    Plant(
        defense=memory.DiskMemoryBeneath,
        truth="none",
        robust=remembering,
        setting=ON_DISK,
        fails=frozenset({"order"}),
    ),
    Plant(
        defense=memory.SureDiskMemory,
        truth="none",
        robust=remembering,
        setting=ON_DISK,
        fails=frozenset({"order"}),
        like="DiskMemoryBeneath",
    ),
    Plant(
        defense=memory.LateDiskMemory,
        truth="none",
        robust=remembering,
        setting=ON_DISK,
        fails=frozenset({"order"}),
        like="DiskMemoryBeneath",
    ),
    Plant(defense=memory.JudgeMemory, truth="none", robust=remembering, setting=DEAR),
    Plant(defense=memory.LateMemory, truth="none", robust=remembering, setting=DEAR),
    Plant(
        defense=memory.LateByImages,
        truth="none",
        robust=remembering,
        setting=DEAR,
        like="LateMemory",
    ),
    Plant(
        defense=memory.WarmsUp,
        truth="gain",
        says=("undecided",),
        fails=frozenset({"fresh-process"}),
    ),
    Plant(defense=memory.Lagged, truth="none", robust=remembering, setting=DEAR),
    Plant(defense=memory.SharedMean, truth="none", robust=remembering, setting=DEAR),
)

MASKING: Final = (
    Plant(
        defense=masking.NoAnswerNearby,
        truth="less",
        setting=DEAR,
        fails=frozenset({"finite"}),
    ),
    Plant(
        defense=masking.NoAnswerToAttacks,
        truth="less",
        setting=DEAR,
        fails=frozenset({"finite"}),
    ),
    Plant(
        defense=masking.ErrorNearby,
        truth="less",
        setting=DEAR,
        fails=frozenset({"finite"}),
    ),
    Plant(
        defense=masking.RowsMissing,
        truth="less",
        setting=DEAR,
        fails=frozenset({"finite"}),
        like="ErrorNearby",
    ),
    Plant(
        defense=masking.NoAdaptationNearby,
        truth="less",
        setting=DEAR,
        fails=frozenset({"finite"}),
        like="ErrorNearby",
    ),
    Plant(
        defense=masking.OtherPlateau,
        truth="none",
        robust=STATIC,
        fails=frozenset({"true-gradient"}),
        broken_by=frozenset({"transfer"}),
    ),
    Plant(
        defense=masking.ZeroPlateau,
        truth="none",
        robust=STATIC,
        fails=frozenset({"gradient"}),
        broken_by=frozenset({"transfer"}),
    ),
    Plant(
        defense=masking.ReversedPlateau,
        truth="none",
        robust=STATIC,
        fails=frozenset({"true-gradient"}),
        broken_by=frozenset({"transfer"}),
        like="OtherPlateau",
    ),
    Plant(
        defense=masking.HardLabels,
        truth="none",
        robust=STATIC,
        fails=frozenset({"gradient"}),
        broken_by=frozenset({"transfer"}),
    ),
    Plant(defense=masking.HardLabelsOfOthers, truth="none", robust=STATIC, like="HardLabels"),
    Plant(defense=masking.Saturated, truth="none", says=("no gain",), robust=STATIC),
    Plant(defense=masking.Probabilities, truth="none", robust=STATIC, fails=frozenset({"logits"})),
    Plant(defense=masking.Cooled, truth="none", says=("no gain",), robust=STATIC, like="Saturated"),
    Plant(
        defense=masking.Quantised,
        truth="none",
        robust=STATIC,
        fails=frozenset({"gradient", "ascent"}),
        broken_by=frozenset({"transfer"}),
    ),
    Plant(
        defense=masking.QuantisedLogits,
        truth="none",
        robust=STATIC,
        fails=frozenset({"gradient"}),
        broken_by=frozenset({"transfer"}),
        like="Quantised",
    ),
    Plant(
        defense=masking.NearestPrototype,
        truth="gain",
        robust=exactly(lambda: robust_count(subjects.prototypes_as_linear())),
    ),
    Plant(
        defense=masking.NearestStored,
        truth="gain",
        robust=exactly(lambda: int(subjects.nearest_stored_robust(48).sum())),
        setting=Setting(count=48, batch=48),
        like="NearestPrototype",
    ),
    Plant(defense=masking.CounterStep, truth="none", robust=STATIC),
    Plant(
        defense=masking.Shattered,
        truth="none",
        robust=lambda: (
            robust_count(planted()[0], eps=float(EPS) + 0.001),
            robust_count(planted()[0], eps=float(EPS) - 0.001),
        ),
        broken_by=frozenset({"transfer", "surrogate"}),
    ),
    Plant(
        defense=masking.ReversedOffTheGrid,
        truth="none",
        robust=as_static(48),
        broken_by=frozenset({"transfer"}),
        setting=DEAR,
        like="Reversed",
    ),
    Plant(
        defense=masking.Reversed,
        truth="none",
        robust=STATIC,
        fails=frozenset({"exact-gradient", "true-gradient"}),
        broken_by=frozenset({"transfer"}),
    ),
)

TELLING: Final = (
    *(
        Plant(defense=kind, truth="none", robust=STATIC)
        for kind in (
            telling.ByRequiresGrad,
            telling.ByGradMode,
            telling.ByBatchSize,
            telling.ByCallNumber,
            telling.ByCaller,
            telling.ByLabelOrder,
        )
    ),
    Plant(
        defense=telling.DecoyToAttacks,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"same-answers", "same-ascent"}),
    ),
    Plant(
        defense=telling.DecoyToGradients,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"same-answers", "same-ascent"}),
        like="DecoyToAttacks",
    ),
    Plant(
        defense=telling.MisleadingAttacks,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"same-ascent"}),
    ),
    Plant(defense=telling.AfterFewCalls, truth="none", robust=STATIC, like="ByCallNumber"),
    Plant(defense=telling.ByLabelOrderDeclared, truth="none", robust=STATIC, like="ByLabelOrder"),
    Plant(
        defense=telling.ByPrecision,
        truth="none",
        robust=STATIC,
        setting=Setting(precision="bf16"),
    ),
)

TWO_BATCHES: Final = Setting(count=48, batch=24)

ELSEWHERE: Final = (
    Plant(
        defense=elsewhere.HonestFirstImages,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"true-gradient"}),
    ),
    Plant(
        defense=elsewhere.HonestFirstPlaces,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"true-gradient"}),
        like="HonestFirstImages",
    ),
    Plant(
        defense=elsewhere.HonestFirstBatch,
        truth="none",
        robust=as_weak,
        setting=TWO_BATCHES,
        fails=frozenset({"true-gradient"}),
        like="HonestFirstImages",
    ),
    Plant(
        defense=elsewhere.HonestHalf,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"true-gradient"}),
        like="HonestFirstImages",
    ),
    Plant(
        defense=elsewhere.HonestFirstImage,
        truth="none",
        setting=Setting(count=24, batch=1, iterations=5),
        fails=frozenset({"true-gradient"}),
        like="HonestFirstImages",
    ),
    Plant(
        defense=elsewhere.DishonestAboutFew,
        truth="none",
        robust=STATIC,
        fails=frozenset({"gained-images"}),
    ),
    *(
        Plant(
            defense=kind,
            truth="none",
            robust=STATIC,
            fails=frozenset({"gained-images"}),
            like="DishonestAboutFew",
        )
        for kind in (elsewhere.FlatAboutFew, elsewhere.HidesLosses)
    ),
    Plant(
        defense=elsewhere.DishonestOnTheWay,
        truth="none",
        robust=STATIC,
        like="DishonestAboutFew",
    ),
)


def _robust_at_corners() -> tuple[nn.Module, Tensor, Tensor]:
    """The planted model, robust at corners alone, and its images: attacks take it for robust."""
    model, images, labels = planted()
    return corners.RobustAtCorners(model), images, labels


CORNERS: Final = (
    Plant(
        defense=corners.RobustWhereAllMove,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"monotone", "gained-images"}),
    ),
    *(
        Plant(
            defense=kind,
            truth="none",
            robust=as_weak,
            setting=DEAR,
            fails=frozenset({"monotone", "gained-images"}),
            like="RobustWhereAllMove",
        )
        for kind in (
            corners.RobustAtTheEdge,
            corners.RobustOnTheGrid,
            corners.RobustWhereAllMoveInCompany,
        )
    ),
    Plant(
        defense=corners.Brought,
        truth="none",
        says=("undecided",),
        robust=as_static(24),
        setting=replace(FEW, data=_robust_at_corners),
        name="AroundRobustAtCorners",
        like="RobustWhereAllMove",
    ),
)


def _robust_but_in_a_shell() -> tuple[nn.Module, Tensor, Tensor]:
    """A static model that is weak in a shell of the ball alone: attacks take it for robust."""
    return (ball_parts.WeakInAShellAsStatic(), *planted()[1:])


def _other_in_cells() -> tuple[nn.Module, Tensor, Tensor]:
    """A static model that is another network in some cells of the ball: attacks miss that one."""
    return (random_answers.AnotherInCells(planted()[0]), *planted()[1:])


def _flat_in_a_shell() -> tuple[nn.Module, Tensor, Tensor]:
    """A static model that is weak, and shows its label alone, in a shell of the ball alone."""
    return (ball_parts.FlatInAShell(planted()[0]), *planted()[1:])


BALL_PARTS: Final = (
    Plant(
        defense=ball_parts.WeakInAShell,
        truth="less",
        setting=DEAR,
        fails=frozenset({"gained-images"}),
    ),
    *(
        Plant(
            defense=kind,
            truth="less",
            setting=DEAR,
            fails=frozenset({"gained-images"}),
            like="WeakInAShell",
        )
        for kind in (
            ball_parts.WeakInAThinShell,
            ball_parts.WeakWhereBrighter,
            ball_parts.WeakWhereSmooth,
            ball_parts.WeakWhereUneven,
            ball_parts.WeakWhereFewMove,
            ball_parts.WeakInEightBits,
            ball_parts.WeakDeepInside,
            ball_parts.FlatInAShell,
            ball_parts.WeakWhereAHalfMoves,
        )
    ),
    Plant(
        defense=corners.Brought,
        truth="gain",  # of the static model no image is robust in the shell
        says=("undecided",),
        robust=as_static(24),
        setting=replace(FEW, data=_robust_but_in_a_shell),
        fails=frozenset({"lost-images"}),
        name="AroundWeakInAShell",
    ),
    Plant(
        defense=honest.Useless,
        truth="gain",
        says=("undecided",),
        robust=as_projected(),
        setting=Setting(data=_robust_but_in_a_shell),
        name="RobustAroundWeakInAShell",
        like="RobustAroundOtherCells",
    ),
    *(
        Plant(
            defense=honest.Useless,
            truth="gain",
            says=("undecided",),
            robust=as_projected(),
            setting=Setting(data=data),
            name=name,
            like=like,
        )
        for data, name, like in (
            (_other_in_cells, "RobustAroundOtherCells", ""),
            (_flat_in_a_shell, "RobustAroundFlatInAShell", "RobustAroundOtherCells"),
        )
    ),
)


AROUND_HARMED: Final = replace(DEAR, data=lambda: (harming.Baseline(), *planted()[1:]))

HARMING: Final = (
    Plant(
        defense=harming.HarmsItsBaseline,
        truth="none",
        robust=as_projected(48),
        setting=AROUND_HARMED,
    ),
    Plant(
        defense=harming.HarmsWhileAsked,
        truth="none",
        robust=as_projected(48),
        setting=AROUND_HARMED,
        like="HarmsItsBaseline",
    ),
)

IN_BATCHES: Final = Setting(count=24, batch=company.SIZE, iterations=16)


def _chosen_batches() -> tuple[int, int]:
    """As many as static, and a few that a short ascent in other batches misses."""
    count = robust_count(planted()[0], 24)
    return count, count + 2


def _otherwise() -> tuple[int, int]:
    """The same of the other network."""
    count = robust_count(subjects.otherwise_rough(), 24)
    return count, count + 2


COMPANY: Final = (
    Plant(
        defense=company.RobustInDeclaredBatches,
        truth="none",
        robust=_chosen_batches,
        broken_by=frozenset({"batch-mates"}),
        setting=IN_BATCHES,
    ),
    Plant(
        defense=company.RobustAmongMates,
        truth="none",
        robust=_chosen_batches,
        broken_by=frozenset({"batch-mates"}),
        setting=IN_BATCHES,
        like="RobustInDeclaredBatches",
    ),
    *(
        Plant(
            defense=kind,
            truth="none",
            robust=_otherwise,
            broken_by=frozenset({"batch-mates"}),
            setting=IN_BATCHES,
            like=like,
        )
        for kind, like in (
            (company.WeakAmongNatural, ""),
            (company.WeakInOthers, "WeakAmongNatural"),
            (company.WeakAmongFewLabels, "WeakAmongNatural"),
        )
    ),
    *(
        Plant(
            defense=kind,
            truth="none",
            says=("undecided",),
            robust=_otherwise,
            fails=frozenset({"gained-images"}),
            setting=IN_BATCHES,
            like=like,
        )
        for kind, like in (
            (company.MisleadingInOthers, ""),
            (company.FlatAmongNatural, "MisleadingInOthers"),
            (company.WeakAlone, "MisleadingInOthers"),
            (company.WeakInOtherSizes, "MisleadingInOthers"),
            (company.MisleadingAlone, "MisleadingInOthers"),
        )
    ),
)

RANDOM: Final = (
    Plant(
        defense=random_answers.Noisy, truth="none", fails=frozenset({"repeatable"}), setting=DEAR
    ),
    Plant(
        defense=random_answers.NoisyByNumPy,
        truth="none",
        fails=frozenset({"repeatable"}),
        honest=True,
        setting=DEAR,
        like="Noisy",
    ),
    Plant(
        defense=random_answers.NoisyInOneMemory,
        truth="none",
        fails=frozenset({"repeatable"}),
        honest=True,
        setting=DEAR,
        like="Noisy",
    ),
    Plant(
        defense=random_answers.RobustOneInTenInOneMemory,
        truth="gain",
        fails=frozenset({"repeatable"}),
        setting=DEAR,
    ),
    Plant(
        defense=random_answers.NoiseOffTheGrid,
        truth="less",
        fails=frozenset({"repeatable"}),
        setting=DEAR,
    ),
    Plant(
        defense=random_answers.RobustOneInTen,
        truth="gain",
        fails=frozenset({"repeatable"}),
        setting=DEAR,
    ),
    Plant(
        defense=random_answers.RobustOneInTen,
        truth="gain",
        fails=frozenset({"repeatable"}),
        setting=Setting(eps=Fraction(1, 40), count=48, batch=48),
        name="RobustOneInTen-small-eps",
        like="RobustOneInTen",
    ),
    Plant(
        defense=random_answers.NoisyProjection,
        truth="gain",
        fails=frozenset({"repeatable"}),
        setting=DEAR,
        like="RandomNetwork",
    ),
    Plant(
        defense=random_answers.Smoothing,
        truth="gain",
        fails=frozenset({"repeatable"}),
        setting=WAVY,
    ),
    Plant(
        defense=random_answers.VotedSmoothing,
        truth="gain",
        fails=frozenset({"repeatable", "gradient"}),
        setting=WAVY,
        like="Smoothing",
    ),
    Plant(
        defense=random_answers.RandomNetwork,
        truth="gain",
        fails=frozenset({"repeatable"}),
        setting=DEAR,
    ),
    Plant(defense=random_answers.HashedNoise, truth="less"),
    Plant(
        defense=random_answers.AnotherNowAndThen,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"gained-images"}),
    ),
    Plant(
        defense=random_answers.AnotherOnceInAWhile,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"gained-images"}),
        like="AnotherNowAndThen",
    ),
    Plant(
        defense=random_answers.AnotherInCells,
        truth="none",
        robust=as_weak,
        setting=DEAR,
        fails=frozenset({"gained-images"}),
    ),
    *(
        Plant(
            defense=kind,
            truth="none",
            setting=DEAR,
            fails=frozenset({"gained-images"}),
            like="AnotherInCells",
        )
        for kind in (random_answers.AnotherInFineCells, random_answers.AnotherBesideAMask)
    ),
    Plant(
        defense=random_answers.RandomCounterAttack,
        truth="less",
        fails=frozenset({"repeatable"}),
    ),
)


def _no_other(defense: type[nn.Module]) -> Plant:
    """A plant that is the static model in another dress: neither gains nor loses an image."""
    return Plant(
        defense=defense,
        truth="none",
        says=("no gain",),
        robust=STATIC,
        difference=0,
        honest=True,
    )


HONEST: Final = (
    Plant(
        defense=honest.Identity,
        truth="none",
        says=("no gain",),
        robust=exactly(lambda: subjects.robust_count_in_l2(Fraction(1, 5))),
        setting=Setting(norm="L2", eps=Fraction(1, 5)),
        name="Identity-L2",
        difference=0,
        honest=True,
    ),
    _no_other(honest.Identity),
    _no_other(honest.IdentityInParts),
    _no_other(honest.MaskedClass),
    Plant(
        defense=honest.MaskedProjection,
        truth="gain",
        robust=as_projected(48),
        setting=DEAR,
        honest=True,
    ),
    Plant(
        defense=honest.AlwaysMaskedProjection,
        truth="gain",
        robust=as_projected(24),
        says=("holds",),
        setting=FEW,
        honest=True,
        like="MaskedProjection",
    ),
    Plant(
        defense=honest.MaskedVoting,
        truth="less",
        setting=DEAR,
        fails=frozenset({"separable"}),
    ),
    _no_other(honest.CoupledIdentity),
    Plant(
        defense=honest.NeverAlone,
        truth="none",
        robust=as_static(24),
        setting=Setting(count=24, batch=8, iterations=5),
        honest=True,
    ),
    _no_other(masking.Scaled),
    Plant(
        defense=honest.Identity,
        truth="none",
        setting=DIGITS,
        name="Identity-digits",
        difference=0,
        honest=True,
    ),
    Plant(
        defense=honest.IdentityInParts,
        truth="none",
        setting=DIGITS,
        name="IdentityInParts-digits",
        difference=0,
        honest=True,
        like="Identity-digits",
    ),
    Plant(
        defense=honest.CoupledIdentity,
        truth="none",
        setting=DIGITS,
        name="CoupledIdentity-digits",
        difference=0,
        honest=True,
        like="Identity-digits",
    ),
    Plant(
        defense=masking.Scaled,
        truth="none",
        setting=DIGITS,
        name="Scaled-digits",
        honest=True,
        like="Identity-digits",
    ),
    Plant(
        defense=masking.Saturated,
        truth="none",
        setting=DIGITS,
        name="Saturated-digits",
        like="Saturated",
    ),
    Plant(
        defense=masking.Cooled,
        truth="none",
        setting=DIGITS,
        name="Cooled-digits",
        like="Saturated",
    ),
    Plant(defense=honest.Useless, truth="gain", robust=as_projected(), name="BringsOwnNetwork"),
    Plant(
        defense=honest.Useless,
        truth="none",
        says=("no gain",),
        robust=as_projected(),
        setting=Setting(data=lambda: (projected(planted()[0]), *planted()[1:])),
        difference=0,
        honest=True,
    ),
    Plant(defense=honest.Weaker, truth="less", robust=exactly(lambda: _rough(COUNT)), honest=True),
    Plant(defense=honest.Voting, truth="less"),
    Plant(defense=honest.VotingInSecret, truth="less", fails=frozenset({"separable"})),
    Plant(
        defense=honest.Projection,
        truth="gain",
        robust=as_projected(24),
        says=("holds",),
        setting=FEW,
        name="Projection-holds",
        honest=True,
    ),
    Plant(
        defense=honest.Projection,
        truth="gain",
        robust=as_projected(24),
        says=("holds",),
        setting=replace(FEW, data=lambda: (subjects.Huge(), *planted()[1:])),
        name="AroundHuge",
        honest=True,
        like="Projection-holds",
    ),
    Plant(
        defense=honest.Identity,
        truth="none",
        says=("no gain",),
        robust=STATIC,
        setting=Setting(data=lambda: (subjects.Huge(), *planted()[1:])),
        name="IdentityOfHuge",
        difference=0,
        honest=True,
    ),
    Plant(
        defense=honest.CoupledProjection,
        truth="gain",
        says=("undecided",),
        setting=Setting(batch=30),
        honest=True,
    ),
    Plant(
        defense=honest.Projection,
        truth="gain",
        robust=as_projected(4),
        says=("undecided",),
        setting=Setting(count=4, batch=4),
        name="Projection-too-few",
        honest=True,
    ),
)


def _rough(count: int) -> int:
    return robust_count(subjects.roughened(planted()[0]), count)


PLANTS: Final = (
    *(*MEMORY, *MASKING, *TELLING, *ELSEWHERE, *CORNERS, *BALL_PARTS, *HARMING),
    *(*COMPANY, *RANDOM, *HONEST),
)
