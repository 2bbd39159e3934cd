"""Catalogue protocols by name: add a protocol here, an attack in ``spec/attack_plans.py``.

Torch-free, so that a bad name is refused at once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from dentbench.attacks.protocol_cards import ProtocolCard, Protocols, is_given
from dentbench.errors import SpecError
from dentbench.registry import Registry
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import AttackSpec, EvalSpec, ProtocolSpec


def attack_label(spec: AttackSpec) -> str:
    """Describe an attack: AutoAttack's preset, or its name and "not AutoAttack"."""
    plan = ATTACKS[spec.name]
    overrides = [
        f"{name} {value}"
        for name in ("iterations", "queries", "targets")
        if (value := getattr(spec, name)) is not None
    ]
    changed = f" with {', '.join(overrides)}" if overrides else ""
    if plan.official and not overrides:
        return plan.title
    return f"{plan.title}{changed} (not AutoAttack)"


NATURAL_VERSION: Final = 1
"""The version of the code that judges natural images, raised as that of a protocol."""

COUPLED_VERSION: Final = 1
"""The version of how searches judge coupled images, raised as that of a protocol."""

CHECKS_VERSION: Final = 17
"""The version of the checks of a defense before its attack, raised as that of a protocol."""


LARGEST_MARGIN: Final = "largest-margin"
"""The name in ``broken_by`` of transfer's points of the largest margin."""


PROTOCOLS: Final[Registry[ProtocolCard]] = Protocols("protocol", has_code=True)
"""Every protocol that ``--protocol`` takes, in the order in which they are run: cheap first."""

PUBLISHED: Final = "published"
"""The protocol of dent's paper, and of a defense that declares none of its own."""

_ENSEMBLE: Final = "arXiv 2110.14735"
_CARE: Final = "arXiv 2202.13711"
_CHEAP: Final = ("transfer", "surrogate", "warm")
_ASCENTS: Final = ("iterations", "targets")
_ROUNDS: Final = (*_ASCENTS, "rounds", "restarts")

PROTOCOLS.add(
    PUBLISHED,
    ProtocolCard(
        function="dentbench.attacks.protocols.base:published",
        summary="the defense itself is attacked, gradient through the last forward only",
        source="arXiv 2105.08714",
        own_attack=False,
    ),
)
PROTOCOLS.add(
    "transfer",
    ProtocolCard(
        function="dentbench.attacks.protocols.transfer:transfer",
        version=5,
        summary="the static model's adversarial points, the first and those of the largest margin, "
        "are judged on the defense",
        source=_CARE,
        needs_static=True,
        own_attack=False,
        follows="points",
    ),
)
PROTOCOLS.add(
    "surrogate",
    ProtocolCard(
        function="dentbench.attacks.protocols.gradient:surrogate",
        version=3,
        summary="the static model's gradient is followed; the defense judges every iterate",
        source=_CARE,
        after=("transfer",),
        counterpart=True,
        settings=(*_ASCENTS, "every"),
    ),
)
PROTOCOLS.add(
    "warm",
    ProtocolCard(
        function="dentbench.attacks.protocols.gradient:warm",
        version=3,
        summary="the published gradient, but started from the best points so far",
        source="ours",
        after=("transfer", "surrogate"),
        counterpart=True,
        settings=_ASCENTS,
    ),
)
PROTOCOLS.add(
    "few-steps",
    ProtocolCard(
        function="dentbench.attacks.protocols.gradient:few_steps",
        version=3,
        summary="the defense is attacked with fewer adaptation steps than it defends with",
        source=_CARE,
        after=_CHEAP,
        needs=("with_steps",),
        settings=(*_ASCENTS, "every"),
    ),
)
PROTOCOLS.add(
    "bpda",
    ProtocolCard(
        function="dentbench.attacks.protocols.gradient:bpda",
        version=3,
        summary="the defense's own logits, but the static model's gradient stands in for theirs",
        source="arXiv 1802.00420",
        after=_CHEAP,
        settings=_ASCENTS,
    ),
)
PROTOCOLS.add(
    "surrogate-process",
    ProtocolCard(
        function="dentbench.attacks.protocols.gradient:surrogate_process",
        summary="the exact gradient of fewer and larger adaptation steps; the defense judges",
        source="arXiv 2303.09051",
        after=_CHEAP,
        needs=("with_steps", "predict", "unroll"),
        settings=(*_ASCENTS, "every"),
    ),
)
PROTOCOLS.add(
    "trajectory",
    ProtocolCard(
        function="dentbench.attacks.protocols.gradient:trajectory",
        summary="the mean loss of the networks before every adaptation step and after the last",
        source=_CARE,
        after=_CHEAP,
        needs=("predict", "trajectory"),
        settings=_ASCENTS,
    ),
)
PROTOCOLS.add(
    "fpa",
    ProtocolCard(
        function="dentbench.attacks.protocols.gmsa:fpa",
        version=3,
        summary="the newest adapted network is attacked as a fixed network, in rounds",
        source=_ENSEMBLE,
        after=_CHEAP,
        needs=("adapt", "predict"),
        settings=_ROUNDS,
    ),
)
PROTOCOLS.add(
    "gmsa-avg",
    ProtocolCard(
        function="dentbench.attacks.protocols.gmsa:gmsa_avg",
        version=3,
        summary="the mean loss of the static and all adapted networks is attacked, in rounds",
        source=_ENSEMBLE,
        after=_CHEAP,
        needs=("adapt", "predict"),
        settings=_ROUNDS,
    ),
)
PROTOCOLS.add(
    "gmsa-min",
    ProtocolCard(
        function="dentbench.attacks.protocols.gmsa:gmsa_min",
        version=3,
        summary="the least loss of the static and all adapted networks is attacked, in rounds",
        source=_ENSEMBLE,
        after=_CHEAP,
        needs=("adapt", "predict"),
        settings=_ROUNDS,
    ),
)
PROTOCOLS.add(
    "unrolled",
    ProtocolCard(
        function="dentbench.attacks.protocols.gradient:unrolled",
        version=4,
        summary="the exact gradient, through every adaptation step",
        source="ours",
        after=_CHEAP,
        needs=("predict", "unroll"),
        settings=(*_ASCENTS, "last"),
    ),
)
PROTOCOLS.add(
    "eot",
    ProtocolCard(
        function="dentbench.attacks.protocols.eot:eot",
        version=2,
        summary="the gradients of random batch mates and the defense's own random numbers, joined",
        source="arXiv 1707.07397, NeurIPS 2024 (DiffHammer) for the weights",
        after=_CHEAP,
        coupled_only="an image's answer depends on nothing random; it would equal published",
        settings=(*_ASCENTS, "every", "draws", "eot"),
    ),
)
PROTOCOLS.add(
    "scores",
    ProtocolCard(
        function="dentbench.attacks.protocols.gradient:scores",
        summary="no gradient: Square, from scratch, by the defense's scores alone; in a cascade "
        "with 5 queries for each iteration of the attack, to keep the whole cheap",
        source="arXiv 1912.00049",
        after=_CHEAP,
        counterpart=True,
        follows="answers",
        settings=("iterations", "queries"),
    ),
)
PROTOCOLS.add(
    "decision",
    ProtocolCard(
        function="dentbench.attacks.protocols.decision:decision",
        version=4,
        summary="the defense's labels alone: RayS in Linf, HopSkipJump in L2; in a cascade with "
        "5 queries for each iteration of the attack",
        source="arXiv 2006.12792, arXiv 1904.02144",
        after=_CHEAP,
        counterpart=True,
        follows="answers",
        settings=("iterations", "queries"),
    ),
)
PROTOCOLS.add(
    "batch-mates",
    ProtocolCard(
        function="dentbench.attacks.protocols.batch_mates:batch_mates",
        version=6,
        summary="the worst points so far are judged in other batches too, where an image that is "
        "right unperturbed must stay right, attacked in another order, and recombined with mates'",
        source="arXiv 2301.12576 for the distribution-invading attack",
        after=_CHEAP,
        coupled_only="an image's answer does not depend on its batch mates",
        follows="points",
        settings=("iterations", "fractions", "last"),
    ),
)
PROTOCOLS.add(
    "poisoned-stream",
    ProtocolCard(
        function="dentbench.attacks.protocols.poisoned_stream:poisoned_stream",
        summary="batches before are perturbed, so that later images break, perturbed or not",
        source="ours; arXiv 2308.08505, arXiv 2410.04682 for poisoned state",
        after=_CHEAP,
        needs=("after",),
        settings=("iterations",),
    ),
)

COUNTERPARTS: Final = tuple(name for name, card in PROTOCOLS.items() if card.counterpart)
"""The protocols that are run on the static model too."""

STARTING_POINTS: Final = frozenset(name for card in PROTOCOLS.values() for name in card.after)
"""The protocols whose final points others start from."""

BLACK_BOXES: Final = tuple(name for name, card in PROTOCOLS.items() if card.follows == "answers")
"""The protocols that attack the defense by its answers alone: from scratch, by so many queries."""

GRADIENT_FREE: Final = tuple(name for name, card in PROTOCOLS.items() if card.follows != "gradient")
"""The protocols that follow no gradient of the defense or in its place."""

DEFAULT_PROTOCOLS: Final = (PUBLISHED, "transfer")


def with_prerequisites(names: Collection[str], spec: EvalSpec) -> tuple[str, ...]:
    """Return the protocols named and, in a cascade, those that must run before them, in order."""
    wanted = set(names)
    if spec.protocols.cascade:
        wanted |= {earlier for name in names for earlier in PROTOCOLS[name].after}
    return (*(name for name in PROTOCOLS if name in wanted), *filter(is_given, names))


def heeded(names: Collection[str]) -> frozenset[str]:
    """Return the fields of the ProtocolSpec that any of the protocols named heeds."""
    cards = [PROTOCOLS[name] for name in names]
    settings = {setting for card in cards for setting in card.settings}
    settings |= {"cascade"} if any(card.own_attack for card in cards) else set()
    return frozenset(settings | {"draws_judged"})  # a random defense draws under every protocol


def require_heeded(settings: ProtocolSpec, names: Collection[str]) -> None:
    """Raise :class:`~dentbench.errors.SpecError` for a setting that no protocol named heeds."""
    first = {earlier for name in names for earlier in PROTOCOLS[name].after if settings.cascade}
    for name in sorted(settings.changed.keys() - heeded({*names, *first})):
        able = ", ".join(protocol for protocol in PROTOCOLS if name in heeded([protocol]))
        raise SpecError(
            f"protocol setting {name} is given, but no protocol that is run ({', '.join(names)}) "
            f"heeds it; add --protocol all, or one of {able}"
        )
