"""``dentbench evaluate`` without anything to evaluate named: a first look that is short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from dentbench.cli.shared import SharedOptions

FULL: Final = "dentbench evaluate --attack standard --protocol all --batch-size 64"
"""The evaluation that a first look stands for."""

BATCH: Final = 64
"""Images that dent sees together in a first look: batches enough for a verdict."""

_HOW: Final = frozenset(
    {
        *("results", "cache", "mirror", "offline", "device", "executor", "workers", "threads"),
        *("address", "compiling", "kernels", "fresh", "progress", "quiet", "as_json", "force"),
    }
)
"""The options that say how a run is carried out and shown, and do not choose it."""


def is_asked_for(shared: SharedOptions, own: Mapping[str, Any]) -> bool:
    """Return whether no option chooses the run; ``own``: options of the command alone."""
    defaults = vars(SharedOptions())
    given = {name: value for name, value in vars(shared).items() if name not in _HOW}
    return not any(own.values()) and all(defaults[name] == value for name, value in given.items())


def shortened(shared: SharedOptions) -> SharedOptions:
    """Return the options of a first look: the attack "quick", until the verdict is decided."""
    return replace(shared, attack="quick", until="decided", batch_size=BATCH)


def text(shared: SharedOptions) -> str:
    """Print the run's settings, and how long the full evaluation would take on this machine."""
    from dentbench.evaluation.progress.events import duration_text
    from dentbench.study.defenses import choose_defenses
    from dentbench.study.loading import forecast
    from dentbench.study.study import make_studies

    full = replace(shared, attack="standard", protocol=["all"]).request(())
    studies = make_studies(full, lambda card: choose_defenses((), None, {}, card))
    whole = forecast(studies, shared.run_options()).whole
    return (
        f"A first look: the short attack quick, batches of {BATCH}, until the verdict was decided. "
        f"The full evaluation takes about {duration_text(whole)} on this machine: {FULL}"
    )
