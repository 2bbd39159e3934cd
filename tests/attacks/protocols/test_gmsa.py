"""FPA and GMSA against a slow transcription of Chen et al.'s loop, and their adapted networks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from dentbench.adapt.dent import Dent
from dentbench.attacks.apgd import apgd, random_start
from dentbench.attacks.base import ThreatModel, margins
from dentbench.attacks.budget import ascents_of
from dentbench.attacks.losses import make_loss, ranked_targets
from dentbench.attacks.protocols.gmsa import ensemble
from dentbench.spec.evaluation import derive_seed
from tests.attacks.contexts import BATCHWISE, COUPLED, SEPARABLE, context_of, run, spec_of
from tests.attacks.toys import labels_of, small_network, tiny_images

JOINS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "fpa": lambda losses: losses[-1],
    "gmsa-avg": lambda losses: sum(losses) / len(losses),  # type: ignore[return-value]
    "gmsa-min": lambda losses: torch.stack(losses).min(0).values,
}


def transcribed(stage: str, dent: Dent, network: Any, x: Tensor, y: Tensor, spec: Any) -> Tensor:
    """The loop of eval_dent_gmsa.py and pgd_attack.py, image by image where it selects.

    Every start's points are shown to the defense, as ours are, and what is kept is, for a coupled
    defense, the batch of lowest accuracy, for a separable one each image's worst point.
    """
    threat = ThreatModel.of(spec.attack)
    models: list[Callable[[Tensor], Tensor]] = [network]
    ascents = ascents_of(spec, stage, 5)
    worst, highest = x.clone(), torch.full((len(x),), -torch.inf)
    chosen, lowest = x.clone(), torch.full((len(x),), -torch.inf)
    logits_there = torch.zeros(len(x), 5)

    def judged(points: Tensor) -> None:
        nonlocal chosen, lowest
        logits = dent(points)
        margin = margins(logits, y)
        for i in range(len(x)):
            if margin[i] > highest[i]:
                worst[i], highest[i], logits_there[i] = points[i], margin[i], logits[i]
        wrong, before = int((margin > 0).sum()), int((lowest > 0).sum())
        if wrong > before or (wrong == before and margin.mean() > lowest.mean()):
            chosen, lowest = points, margin

    judged(x)
    for outer in range(spec.protocols.rounds):
        gradient_fn = ensemble(models, lambda losses: JOINS[stage](list(losses)))
        untargeted = make_loss("margin", y)
        best, error = x.clone(), gradient_fn(x, untargeted).loss
        for k, ascent in enumerate(ascents):
            number = outer * len(ascents) + k
            seed = derive_seed(spec.seed, stage, 0, number)
            start = random_start(x, threat, torch.Generator().manual_seed(seed))
            targets = None
            if ascent.rank is not None:
                targets = ranked_targets(logits_there, y, ascent.rank)
            loss = make_loss("margin", y, targets)
            points = apgd(gradient_fn, loss, start, x, threat, ascent.iterations)
            judged(points)
            result = gradient_fn(points, untargeted).loss
            for i in range(len(x)):
                if result[i] > error[i]:
                    best[i], error[i] = points[i], result[i]
        judged(best)
        adaptation = dent.adapt(best)
        models = [] if stage == "fpa" else models
        models = [*models, lambda x, adaptation=adaptation: dent.predict(x, adaptation)]
    judged(worst.clone())
    return worst if spec.separable else chosen


MODES = {"alone": SEPARABLE, "shot": COUPLED, "batch": BATCHWISE}
TRIED = {("alone", "gmsa-avg"), ("shot", "gmsa-min"), ("batch", "fpa"), ("alone", "fpa")}
"""Each mode and each stage is tried by every run of the tests, all pairs of them by the sweep."""


@pytest.mark.parametrize(
    ("mode", "stage"),
    [
        pytest.param(*pair, marks=() if pair in TRIED else pytest.mark.sweep)
        for pair in product(MODES, JOINS)
    ],
)
def test_it_is_the_published_loop(mode: str, stage: str) -> None:
    defense = MODES[mode]
    network = small_network()
    x = tiny_images(5)
    y = labels_of(network, x)
    # So small a ball that nobody is broken: separable images leave the search where they are.
    from fractions import Fraction

    eps = Fraction(1, 500) if defense is SEPARABLE else Fraction(1, 50)
    spec = spec_of(5, defense, eps=eps, iterations=8, targets=2, restarts=2, cascade=False)
    dent = Dent(network, defense, batch_size=8 if spec.separable else None)
    y = labels_of(dent, x)
    context = context_of(dent, network, x, y, spec)
    assert len(ascents_of(spec, stage, 5)) == 4  # two random starts and two targets

    result = run(stage, context)

    expected = transcribed(stage, dent, network, x, y, spec)
    torch.testing.assert_close(result.points, expected, rtol=0, atol=1e-5)


def test_the_adapted_networks_are_constants_and_the_model_is_not_copied() -> None:
    network = small_network()
    x = tiny_images(4)
    dent = Dent(network, COUPLED)
    adaptations: list[Any] = []
    inner = dent.adapt

    def adapt(points: Tensor) -> Any:
        adaptations.append(inner(points))
        return adaptations[-1]

    dent.adapt = adapt  # type: ignore[method-assign]
    y = labels_of(network, x)
    context = context_of(dent, network, x, y, spec_of(4, COUPLED, cascade=False, iterations=3))
    run("gmsa-avg", context)
    assert not any(a.affine.requires_grad for a in adaptations)


def test_images_that_are_broken_leave_and_their_adaptations_with_them() -> None:
    """Instance-wise adaptations have a row per image; they are made anew for those left."""
    from fractions import Fraction

    network = small_network()
    x = tiny_images(8)
    dent = Dent(network, SEPARABLE, batch_size=8)
    y = labels_of(dent, x)
    spec = spec_of(8, SEPARABLE, eps=Fraction(3, 200), cascade=False)
    sizes: list[int] = []
    inner = dent.adapt

    def adapt(points: Tensor) -> Any:
        sizes.append(len(points))
        return inner(points)

    dent.adapt = adapt  # type: ignore[method-assign]
    for stage in JOINS:
        sizes.clear()
        result = run(stage, context_of(dent, network, x, y, spec))
        assert 0 < int(result.robust.sum()) < 8
        assert max(sizes) == 8 and min(sizes) < 8
