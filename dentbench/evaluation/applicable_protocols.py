"""Select the protocols that can attack a defense, and explain why others cannot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dentbench.attacks.base import offers
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.evaluation.checks.sanity_checks import is_expected_random
from dentbench.evaluation.context import RunContext
from dentbench.spec.evaluation import EvalSpec


def offered(context: RunContext, spec: EvalSpec) -> frozenset[str]:
    """Return the methods that a spec's defense has beside logits, as protocols name them."""
    classify = context.worker.classifier(spec)
    names = set(offers(classify))
    if is_expected_random(context.folder(spec), spec):
        names.add("random")
    if hasattr(classify, "after"):
        names.add("after")
    if context.worker.with_steps(spec):
        names.add("with_steps")
    return frozenset(names)


def skipped(context: RunContext, spec: EvalSpec, protocols: Sequence[str]) -> dict[str, str]:
    """Return the protocols that cannot attack a spec's defense, with the reason of each."""
    able = offered(context, spec)
    reasons = {name: PROTOCOLS[name].reason_to_skip(spec, able) for name in protocols}
    return {name: reason for name, reason in reasons.items() if reason}


def possible(context: RunContext, spec: EvalSpec, protocols: Sequence[str]) -> list[str]:
    """Return the protocols that can attack a spec's defense."""
    not_these = skipped(context, spec, protocols) if spec.defense else {}
    return [name for name in protocols if name not in not_these]


def random_ones(context: RunContext, specs: Iterable[EvalSpec]) -> frozenset[EvalSpec]:
    """Return the specs whose defense answers by chance, as far as that is known."""
    return frozenset(spec for spec in specs if is_expected_random(context.folder(spec), spec))
