"""Outcomes of batches reduced to the columns of a record: counts image by image, never averages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from dentbench.records.outcome import NATURAL, PUBLISHED, TRANSFER_BACK, WORST, BatchOutcome


def worst_case(stages: Mapping[str, Sequence[BatchOutcome]]) -> tuple[bool, ...]:
    """Return, image by image, whether it is right naturally and under every protocol."""
    rows = [_flags(outcomes) for outcomes in stages.values()]
    return tuple(all(flags) for flags in zip(*rows, strict=True))


def broken_first(stages: Mapping[str, Sequence[BatchOutcome]]) -> tuple[str, ...]:
    """Return, image by image, the first stage, in order, under which it is wrong, or ""."""
    flags = {name: _flags(outcomes) for name, outcomes in stages.items()}
    return tuple(
        next((name for name, right in zip(flags, rights, strict=True) if not right), "")
        for rights in zip(*flags.values(), strict=True)
    )


def static_cases(
    stages: Mapping[str, Sequence[BatchOutcome]], static: Mapping[str, Sequence[BatchOutcome]]
) -> dict[str, tuple[bool, ...]]:
    """Return, by stage, whether the static model is right on each image, effort for effort.

    ``static``: its own outcomes. Where its points were tried on the defense ("transfer"), the
    final points of every stage of the defense count for it too, as :data:`TRANSFER_BACK`.
    """
    cases = {name: tuple(_flags(outcomes)) for name, outcomes in static.items()}
    if "transfer" in stages:
        rows = [
            [flag for outcome in outcomes for flag in outcome.static_correct]
            for name, outcomes in stages.items()
            if name != NATURAL
        ]
        cases[TRANSFER_BACK] = tuple(all(flags) for flags in zip(*rows, strict=True))
    return cases


def batch_worst(stages: Mapping[str, Sequence[BatchOutcome]]) -> int:
    """Return the images right when the worst final points are chosen for every batch as a whole.

    For each batch it is the fewest images, over the protocols, that are right naturally and, all
    at the protocol's final points in one declared batch, under it. One attacker of the whole
    batch reaches this; the worst case per image is of one attacker for each image.
    """
    units = range(len(stages[NATURAL]))
    return sum(
        min(
            _right_together(stages[NATURAL][unit], outcomes[unit])
            for name, outcomes in stages.items()
            if name != NATURAL
        )
        for unit in units
    )


def _right_together(natural: BatchOutcome, outcome: BatchOutcome) -> int:
    return sum(map(bool.__and__, natural.correct, outcome.judged or outcome.correct))


def summed(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mappings of counts, nested as they may be, added up name by name."""
    total: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [part[name] for part in parts if name in part]
        total[name] = summed(values) if isinstance(values[0], Mapping) else sum(values)
    return total


def _batch_mates(stages: Mapping[str, Sequence[BatchOutcome]]) -> str | None:
    """Return the details of batch-mates over all batches, declared batches beside others."""
    if "batch-mates" not in stages:
        return None
    details = summed([outcome.details for outcome in stages["batch-mates"]])
    if not details:  # at eps 0 there is nothing to try
        return None
    pairs = zip(stages[NATURAL], stages["batch-mates"], strict=True)
    declared = {
        "natural": sum(_flags(stages[NATURAL])),
        "attacked": sum(_right_together(*pair) for pair in pairs),
    }
    return json.dumps(
        {**details, "compositions": {"declared": declared, **details["compositions"]}}
    )


def summarize(
    stages: Mapping[str, Sequence[BatchOutcome]],
    static: Mapping[str, Sequence[BatchOutcome]] | None = None,
    *,
    separable: bool = True,
) -> dict[str, Any]:
    """Return the columns that the outcomes determine.

    ``stages`` maps ``"natural"`` and each protocol run to its outcomes in batch order;
    ``static`` maps the static model's stages to its outcomes on the same images; ``separable`` is
    the spec's.
    """
    natural = _flags(stages[NATURAL])
    counts = _rights(stages)
    worst, first = worst_case(stages), Counter(broken_first(stages))
    cases = None if static is None else static_cases(stages, static)
    return {
        "protocol": " ".join(counts),
        "n": len(natural),
        "natural_correct": sum(natural),
        "robust_correct": sum(worst),
        "batch_worst_correct": None if separable or not counts else batch_worst(stages),
        "batch_mates": _batch_mates(stages),
        "worst_protocol": min(counts, key=lambda name: counts[name]) if counts else "",
        "by_protocol": json.dumps(counts),
        "newly_broken": json.dumps({name: first[name] for name in counts}) if counts else None,
        **_published(stages.get(PUBLISHED, ())),
        "rechecked": _rechecked(stages),
        **_comparison(worst, cases),
        "by_batch": None if separable else by_batch(stages, cases),
        **_costs(stages, static or {}),
    }


def _rights(stages: Mapping[str, Sequence[BatchOutcome]]) -> dict[str, int]:
    """Return the images right without an attack and under each protocol."""
    natural = _flags(stages[NATURAL])
    return {
        name: sum(map(bool.__and__, natural, _flags(outcomes)))
        for name, outcomes in stages.items()
        if name != NATURAL
    }


def _published(outcomes: Sequence[BatchOutcome]) -> dict[str, Any]:
    """Return the columns of the published protocol: its own flags, and broken images by attack."""
    broken = Counter(name for outcome in outcomes for name in outcome.broken_by if name)
    flags = [flag for outcome in outcomes for flag in outcome.attack_correct]
    return {
        "autoattack_correct": sum(flags) if outcomes else None,
        "broken_by": json.dumps(dict(sorted(broken.items()))),
    }


def _costs(
    stages: Mapping[str, Sequence[BatchOutcome]], static: Mapping[str, Sequence[BatchOutcome]]
) -> dict[str, Any]:
    """Return passes, time and versions of all stages, the static model's counterparts included."""
    own = (NATURAL, PUBLISHED)  # the rest was run for this comparison alone
    beside = {f"static {n}": batches for n, batches in static.items() if n not in own}
    counted = {**stages, **beside}
    everything = [outcome for outcomes in counted.values() for outcome in outcomes]
    passes = {
        name: sum(outcome.forwards + outcome.backwards for outcome in outcomes)
        for name, outcomes in counted.items()
    }
    return {
        "stage_versions": json.dumps(_versions(everything)),
        "forwards": sum(outcome.forwards for outcome in everything),
        "backwards": sum(outcome.backwards for outcome in everything),
        "passes": json.dumps(passes),
        "seconds": round(sum(outcome.seconds for outcome in everything), 3),
    }


def by_batch(
    stages: Mapping[str, Sequence[BatchOutcome]], cases: Mapping[str, Sequence[bool]] | None
) -> str:
    """Return the counts of every batch: right in each stage and the worst case, gained and lost.

    ``cases``: those of the static model, see :func:`static_cases`; None where there is none.
    """
    natural, worst = _flags(stages[NATURAL]), worst_case(stages)
    rows = {
        name: list(map(bool.__and__, natural, _flags(outcomes)))
        for name, outcomes in stages.items()
    }
    rows[WORST] = list(worst)
    if cases is not None:
        static = [all(flags) for flags in zip(*cases.values(), strict=True)]
        rows["gained"] = list(map(_gained, worst, static))
        rows["lost"] = list(map(_gained, static, worst))
    ends = list(accumulate(len(outcome.correct) for outcome in stages[NATURAL]))
    batches = list(zip([0, *ends], ends, strict=False))
    counts = {name: [sum(row[a:b]) for a, b in batches] for name, row in rows.items()}
    return json.dumps(counts, separators=(",", ":"))


def _flags(outcomes: Sequence[BatchOutcome]) -> list[bool]:
    return [flag for outcome in outcomes for flag in outcome.correct]


def _comparison(
    worst: Sequence[bool], cases: Mapping[str, Sequence[bool]] | None
) -> dict[str, int | str | None]:
    """Return the columns that compare the worst case with the static model's, if any."""
    if cases is None:
        return dict.fromkeys(("static_correct", "static_by_protocol", "gained", "lost"))
    static = [all(flags) for flags in zip(*cases.values(), strict=True)]
    right = cases[NATURAL]
    counts = {
        name: sum(map(bool.__and__, right, flags))
        for name, flags in cases.items()
        if name != NATURAL
    }
    return {
        "static_correct": sum(static),
        "static_by_protocol": json.dumps(counts),
        "gained": sum(map(_gained, worst, static)),
        "lost": sum(map(_gained, static, worst)),
    }


def _versions(outcomes: Sequence[BatchOutcome]) -> dict[str, int]:
    """Return the numbers of the code that outcomes were computed by, by name."""
    numbers: dict[str, int] = {}
    for outcome in outcomes:
        numbers.update(outcome.versions)
    return numbers


def _rechecked(stages: Mapping[str, Sequence[BatchOutcome]]) -> str | None:
    """Return how many images a lower precision judged otherwise, by stage; None in fp32."""
    changes = {name: [outcome.changed for outcome in stage] for name, stage in stages.items()}
    known = {
        name: [count for count in changed if count is not None] for name, changed in changes.items()
    }
    counts = {name: sum(changed) for name, changed in known.items() if changed}
    return json.dumps(counts) if counts else None


def _gained(ours: bool, theirs: bool) -> bool:
    return ours and not theirs
