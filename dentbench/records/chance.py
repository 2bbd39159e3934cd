"""A defense that answers by chance, judged in several draws: expectations, not lucky flags.

The worst case over protocols and draws would condemn any chance: with enough of both every image
is wrong once. Here each protocol has a mean over draws for each image, and the worst case is that
of the worst protocol. To pick it by the same draws that judge it would condemn chance too, so each
draw is judged under the protocol that is worst in all the other draws: an unbiased estimate of the
accuracy under the protocol picked, and never less than the truth on average.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dentbench.records.outcome import NATURAL
from dentbench.stats import CONFIDENCE, paired_means, wilson

Draws: TypeAlias = "Sequence[Sequence[bool]]"
"""Draw by draw, whether each image is right."""

_Flags: TypeAlias = "NDArray[np.float64]"


def expected(stages: Mapping[str, Draws]) -> _Flags:
    """Return, image by image, the share of draws that are right under the worst of the stages.

    Values in [0, 1]. The stage is picked for each image and draw by the other draws; of equal
    stages it is the stage that leaves the fewest images right. A single draw is its own judge.
    """
    flags = [np.asarray(draws, dtype=np.float64) for draws in stages.values()]
    flags.sort(key=lambda draw: float(draw.mean()))
    stacked = np.stack(flags)
    totals, draws = stacked.sum(axis=1), stacked.shape[1]
    if draws == 1:
        return np.asarray(stacked.min(axis=0)[0])
    images = np.arange(stacked.shape[2])
    judged = [
        stacked[(totals - stacked[:, draw]).argmin(axis=0), draw, images] for draw in range(draws)
    ]
    return np.asarray(np.mean(judged, axis=0))


def chance_columns(
    stages: Mapping[str, Draws],
    static: Mapping[str, Sequence[bool]],
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """Return the columns of a random defense, in place of those that single flags give.

    ``stages``: the draws of the defense by stage, ``static``: the flags of the static model, whose
    draws are all the same, "natural" among both. Numbers of images are expectations, rounded; the
    column ``chance`` has them as they are, in images, with the worst of all draws, the majority
    vote and the comparison.
    """
    n = len(stages[NATURAL][0])
    fixed: dict[str, Draws] = {name: [flags] for name, flags in static.items()}
    robust, base = expected(stages), expected(fixed)
    natural = expected({NATURAL: stages[NATURAL]})
    alone = {
        name: expected({NATURAL: stages[NATURAL], name: draws})
        for name, draws in stages.items()
        if name != NATURAL
    }
    mean, low, high, p_value = paired_means((robust - base).tolist(), confidence)
    counts = {name: round(float(rates.sum())) for name, rates in alone.items()}
    right, compared = round(float(robust.sum())), round(float(base.sum()))
    gained = max(round(float(np.maximum(robust - base, 0).sum())), right - compared)
    chance = {
        "draws": len(stages[NATURAL]),
        "natural": _summary({NATURAL: stages[NATURAL]}, natural, n),
        "robust": _summary(stages, robust, n),
        "static": _summary(fixed, base, n),
        "least": round(float(_least(stages).sum()), 3),
        "gain": {"mean": mean, "low": low, "high": high, "p": p_value},
    }
    return {
        "natural_correct": round(float(natural.sum())),
        "robust_correct": right,
        "batch_worst_correct": None,
        "by_protocol": json.dumps(counts),
        "worst_protocol": min(counts, key=lambda name: counts[name]) if counts else "",
        "static_correct": compared,
        "gained": gained,
        "lost": gained - (right - compared),
        "chance": json.dumps(chance),
    }


def _least(stages: Mapping[str, Draws]) -> _Flags:
    """Return the least mean over the stages, image by image: less than the truth on average."""
    means = [np.mean(np.asarray(draws, dtype=np.float64), axis=0) for draws in stages.values()]
    return np.asarray(np.min(means, axis=0))


def _summary(stages: Mapping[str, Draws], share: _Flags, n: int) -> dict[str, float]:
    """Return mean and interval, the worst of all draws and the majority vote, in images."""
    flags = [np.asarray(draws, dtype=np.float64) for draws in stages.values()]
    low, high = wilson(round(float(share.sum())), n)
    return {
        "mean": round(float(share.sum()), 3),
        "low": round(low * n, 3),
        "high": round(high * n, 3),
        "worst": int(np.min([draws.min(axis=0) for draws in flags], axis=0).sum()),
        "majority": int(np.min([draws.mean(axis=0) > 0.5 for draws in flags], axis=0).sum()),
    }
