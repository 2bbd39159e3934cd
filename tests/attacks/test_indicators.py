"""Probes of scores, of modes and of perturbed points; indicators of a failing attack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.attacks.probes.climbing import Climb, Climbs
from dentbench.attacks.probes.indicators import indicate
from dentbench.attacks.probes.scores import _partners, _watch
from tests.attacks.probing import changed, failing, probed
from tests.attacks.toys import small_network, tiny_images

pytestmark = pytest.mark.whole_checks


def hard(logits: Tensor, _: Tensor) -> Tensor:
    """The label alone."""
    return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)


def plateau(logits: Tensor, _: Tensor) -> Tensor:
    """Honest near the boundary, the label alone beyond."""
    top = logits.topk(2, dim=1).values
    close = (top[:, 0] - top[:, 1])[:, None] < 0.05 * logits.std()
    return torch.where(close, logits, 5 * hard(logits, logits))


def rippled(logits: Tensor, x: Tensor) -> Tensor:
    """The label alone, with ripples that say nothing."""
    return hard(logits, x) + 1e-4 * torch.sin(1e4 * x.flatten(1)[:, : logits.shape[1]])


def saturated(logits: Tensor, _: Tensor) -> Tensor:
    return (1e4 * logits).softmax(1)


@pytest.mark.parametrize("answer", [hard, plateau, rippled, saturated])
def test_scores_that_tell_the_label_alone_fail(answer: Any) -> None:
    actual = probed(changed(answer))
    assert {"scores", "large-eps", "noise"} <= failing(actual)
    assert "run the protocol decision" in actual["scores"].sentence


def sharpened(logits: Tensor, _: Tensor) -> Tensor:
    """Away from the boundary by a jump, as entropy minimization does."""
    return logits + 0.5 * logits.std() * hard(logits, logits)


def noisy(logits: Tensor, _: Tensor) -> Tensor:
    return logits + 0.3 * torch.randn_like(logits)


@pytest.mark.parametrize("answer", [lambda z, _: 100 * z, sharpened, noisy])
def test_scores_that_fall_towards_the_boundary_pass(answer: Any) -> None:
    assert probed(changed(answer))["scores"].passed is True


def test_the_margin_of_a_line_is_watched_to_its_crossing() -> None:
    """Margins t - 0.3 and t - 0.9 cross there; one that is wrong at 0 or right at 1 is left out."""
    offset = torch.tensor([0.3, 0.9, -0.1, 1.5])
    pairs, rising, near = _watch(lambda t: t - offset, -offset, span=1.0)
    assert pairs == 2
    # Two are too few to say more; three of them rise all the way to almost nothing.
    offset = torch.tensor([0.3, 0.9, 0.5])
    pairs, rising, near = _watch(lambda t: t - offset, -offset, span=1.0)
    assert (pairs, rising) == (3, 1.0) and 0 <= near <= 1 / 8 / 2**6 / 0.3


def test_partners_are_the_next_of_another_class() -> None:
    assert _partners(torch.tensor([0, 0, 1, 1, 0])).tolist() == [2, 2, 4, 4, 2]
    assert _partners(torch.tensor([3, 3])).tolist() == [0, 1]


def test_answers_that_differ_where_a_gradient_is_wanted() -> None:
    def by_leaf(z: Tensor, x: Tensor) -> Tensor:
        return z.roll(1, 1) if x.requires_grad else z

    def by_mode(z: Tensor, _: Tensor) -> Tensor:
        return z.roll(1, 1) if torch.is_grad_enabled() else z

    for answer in (by_leaf, by_mode):
        actual = probed(changed(answer))
        assert "modes" in failing(actual) and "is wanted" in actual["modes"].sentence
    drawn = probed(changed(noisy))
    assert drawn["modes"].passed is True, "the same random numbers in both modes"
    assert probed(changed(noisy), copies=False)["modes"].passed is None


def attacked(x: Tensor) -> Tensor:
    """Whether each image is none of the natural images."""
    known = tiny_images(20)
    return (x[:, None] != known[None]).flatten(2).any(2).all(1)


def test_what_only_perturbed_points_show_is_seen() -> None:
    asked = [0]

    def counting(z: Tensor, x: Tensor) -> Tensor:
        asked[0] += 1
        return torch.where(attacked(x)[:, None], z * asked[0], z)

    def mating(z: Tensor, x: Tensor) -> Tensor:
        return torch.where(attacked(x)[:, None], z + z.roll(1, 0), z)

    def by_size(z: Tensor, x: Tensor) -> Tensor:
        return torch.where(attacked(x)[:, None], z.roll(int(len(x) == 1), 1), z)

    def in_mode(z: Tensor, x: Tensor) -> Tensor:
        return torch.where(attacked(x)[:, None], z.roll(int(torch.is_grad_enabled()), 1), z)

    for answer, name in (
        (counting, "repeatable"),
        (mating, "separable"),
        (by_size, "separable"),
        (in_mode, "modes"),
    ):
        actual = probed(changed(answer))
        assert name in failing(actual) and "perturbed image" in actual[name].sentence


def climbs(**changes: Any) -> Climbs:
    """Four images: half of eps breaks one, uneven eps two, eps three, the whole box all."""
    made = {
        "half": [[-3, -3, -3, -3], [-2, -2, -2, 1]],
        "uneven": [[-3, -3, -3, -3], [-2, -2, 1, 1]],
        "short": [[-3, -3, -3, -3], [-1, 1, 1, 1], [-1, 1, 1, 1], [-1, 1, 1, 1], [-1, 1, 1, 1]],
        "whole": [[-3, -3, -3, -3], [2, 2, 2, 2]],
        **changes,
    }
    made.setdefault("full", made["short"])
    result = {name: Climb(torch.tensor(rows, dtype=torch.float)) for name, rows in made.items()}
    chance = result.pop("chance", Climb(torch.full((2, 4), -1.0))).best
    return Climbs(chance=chance, **result)


def said(result: Climbs, *, random: bool = False) -> dict[str, bool | None]:
    return {check.name: check.passed for check in indicate(result, random=random)}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"whole": [[-3, -3, -3, -3], [2, 2, -1, 2]]}, "large-eps"),
        ({"half": [[-3, -3, -3, -3], [1, 1, 1, 1]], "short": [[-3] * 4] * 5}, "monotone"),
        ({"uneven": [[-3, -3, -3, -3], [1, 1, 1, 1]], "short": [[-3, 1, -3, -3]] * 5}, "monotone"),
        ({"full": [[-3, -3, -3, -3]] * 5}, "monotone"),
        ({"chance": [[1, -1, -1, -1], [-1, 1, 1, 1]]}, "noise"),
        ({"full": [[-4, 1, 1, 1], [-3, 1, 1, 1], [-2, 1, 1, 1], [-1, 1, 1, 1]]}, "converged"),
    ],
)
def test_each_indicator_fails_where_an_attack_does(changes: dict[str, Any], name: str) -> None:
    assert said(climbs()) == dict.fromkeys(("large-eps", "monotone", "noise", "converged"), True)
    if name == "converged":  # 4 steps, so that the last quarter is one
        changes = {"full": [[-5, 1, 1, 1], *changes["full"]]}
    assert said(climbs(**changes))[name] is False
    hidden = said(climbs(**changes), random=True)
    assert (hidden["monotone"], hidden["noise"]) == (None, None)


def test_an_attack_that_breaks_everything_has_converged() -> None:
    broken = [[-3.0] * 4, *[[1.0] * 4] * 4]
    assert said(climbs(short=broken)) == {
        "large-eps": True,
        "monotone": True,
        "noise": True,
        "converged": True,
    }


def test_an_honest_network_passes_with_more_steps_too() -> None:
    actual = probed(small_network, iterations=30)
    assert failing(actual) == set() and "30 steps" in actual["converged"].sentence
