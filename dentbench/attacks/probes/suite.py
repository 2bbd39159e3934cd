"""All checks that ask the defense itself, on its first declared batch; few calls, then no more."""

from __future__ import annotations

from dentbench.attacks import checks
from dentbench.attacks.catalogue import OWN_NORMS
from dentbench.attacks.checks import SAME, Check
from dentbench.attacks.probes import consistency
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.climbing import climb_all
from dentbench.attacks.probes.gradients import ascent, gradients
from dentbench.attacks.probes.indicators import indicate
from dentbench.attacks.probes.order import ask_first
from dentbench.attacks.probes.scores import scores


def probe(what: Probe) -> tuple[Check, ...]:
    """Return every check that asks the defense at the start; the random state is as before.

    What the check "order" is about is asked first of all; the check itself is for the end.
    """
    ask_first(what)
    defense, answers = consistency.ask_twice(what)
    random = max(one.noise for one in answers) > SAME
    return (
        consistency.repeatable(answers),
        consistency.separable(what, defense, answers),
        consistency.modes(what, answers),
        consistency.logits(answers[0].first),
        scores(what, random=random),
        consistency.stateless(what),
        consistency.in_range(what.images),
        *gradients(what),
        *_climbing(what, random),
    )


def _climbing(what: Probe, random: bool) -> tuple[Check, ...]:
    if what.threat.norm not in OWN_NORMS or not what.threat.eps:
        text = f"not made in {what.threat.norm} with eps {what.threat.eps:g}"
        return tuple(Check(name, None, None, text) for name in checks.CLIMBING)
    climbs = climb_all(what)
    return (ascent(climbs.short, climbs.chance), *indicate(climbs, random=random))
