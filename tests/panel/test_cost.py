"""The whole verdict stays within 1.5 times the passes of the published protocol, under standard.

Counted for one image that survives everything, final judgements included; the formula of each
stage equals what a run counts (``tests/attacks/test_cost.py``). Checks, planted points and the
repeats of random defenses are counted apart, in columns of their own.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.cost import stage_passes
from dentbench.spec.evaluation import AttackSpec, DataSpec, DentSpec, EvalSpec, ModelSpec

pytestmark = pytest.mark.whole_checks

OFFERED = frozenset({"adapt", "predict", "unroll", "trajectory", "preprocess", "with_steps"})
"""The methods of dent beside logits."""


def spec_of(defense: DentSpec, norm: str = "Linf") -> EvalSpec:
    return EvalSpec(
        model=ModelSpec(name="m", sha256=""),
        data=DataSpec(name="d", sha256="", first=0, count=128),
        defense=defense,
        attack=AttackSpec(norm=norm, eps=Fraction(1, 5)),
    )


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    "defense",
    [DentSpec(), DentSpec(loss="entropy"), DentSpec(mode="batch")],
    ids=["instance", "separable", "batch"],
)
def test_the_whole_costs_at_most_half_as_much_again_as_published(
    defense: DentSpec, norm: str
) -> None:
    spec = spec_of(defense, norm)
    passes = {}
    for stage, card in PROTOCOLS.items():
        if not card.reason_to_skip(spec, OFFERED):
            counted = stage_passes(spec, stage, 10)
            passes[stage] = counted.forwards + counted.backwards
            if card.counterpart:  # what the static model faces for the comparison
                counted = stage_passes(spec.counterpart, stage, 10)
                passes[f"static {stage}"] = counted.forwards + counted.backwards
    shares = {stage: round(pass_ / passes["published"], 3) for stage, pass_ in passes.items()}
    assert sum(passes.values()) <= 1.5 * passes["published"], (sum(shares.values()), shares)
