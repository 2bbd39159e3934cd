"""The checks: what each finds on defenses made to pass or to fail it, and those from counts."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dentbench.attacks.base import Classifier
from dentbench.attacks.checks import (
    INDISPENSABLE,
    NAMES,
    Check,
    failed,
    from_json,
    to_json,
    unsettled,
)
from dentbench.errors import ModelError
from dentbench.evaluation.checks.sanity_checks import natural_accuracy, require_natural
from tests.attacks.probing import changed, failing, probed
from tests.attacks.toys import small_network

pytestmark = pytest.mark.whole_checks

NO_CLIMB = frozenset({"ascent", "large-eps", "noise"})


def test_a_network_passes_every_check() -> None:
    actual = probed(small_network)
    assert failing(actual) == set()
    assert actual["exact-gradient"].passed is None
    assert actual["true-gradient"].value == pytest.approx(1, abs=0.2)
    assert all(check.sentence for check in actual.values())


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_other_norms(norm: str) -> None:
    actual = probed(small_network, norm=norm)
    assert failing(actual) == set()
    assert (actual["ascent"].passed is None) == (norm == "L1")


def test_random_answers_are_told_from_a_memory() -> None:
    actual = probed(changed(lambda z, _: z + 0.3 * torch.randn_like(z)))
    assert "repeatable" in failing(actual)
    assert actual["stateless"].passed is True and actual["separable"].passed is None


@pytest.mark.parametrize("library", ["numpy", "random", "none"])
def test_random_answers_of_other_libraries_are_no_memory(library: str) -> None:
    """Their streams are kept apart as torch's is; numbers of its own hide the questions."""
    network = small_network()

    def make() -> Classifier:
        own = np.random.default_rng()

        def noise() -> float:
            if library == "none":
                return float(own.random())
            return np.random.rand() if library == "numpy" else random.random()

        return lambda x: network(x) + torch.tensor([[noise() for _ in range(5)] for _ in x])

    before = random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    known = probed(make)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()  # type: ignore[index]
    assert "repeatable" in failing(known)
    passed = None if library == "none" else True
    assert known["stateless"].passed is passed and known["modes"].passed is passed
    assert ("torch's numbers" in known["stateless"].sentence) == (library == "none")


def test_a_memory_is_found() -> None:
    network = small_network()

    def drifting() -> Classifier:
        asked = [0]

        def answer(x: Tensor) -> Tensor:
            asked[0] += 1
            logits: Tensor = network(x) * asked[0]
            return logits

        return answer

    assert {"stateless", "repeatable"} <= failing(probed(drifting))
    assert probed(drifting, copies=False)["stateless"].passed is None


def test_batch_mates_are_found_and_compared_with_what_is_declared() -> None:
    coupled = small_network(coupled=True)
    assert "separable" in failing(probed(lambda: coupled))
    declared = probed(lambda: coupled, separable=False)["separable"]
    assert declared.passed is True and declared.sentence.endswith("as declared")


def test_one_that_takes_no_single_image_is_not_compared() -> None:
    def picky(logits: Tensor, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise ValueError("expected more than one image")
        return logits

    assert probed(changed(picky))["separable"].passed is None


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda z, _: z.softmax(1), {"logits"}),
        (lambda z, _: z.detach(), {"gradient", "monotone", *NO_CLIMB}),
        (lambda z, _: z.detach() + 0 * z, {"gradient", "monotone", *NO_CLIMB}),
        (lambda z, _: 2 * z.detach() - z, {"true-gradient", "monotone", *NO_CLIMB}),
    ],
)
def test_gradients_and_outputs(change: Callable[[Tensor, Tensor], Tensor], names: set[str]) -> None:
    assert failing(probed(changed(change))) == names


def test_a_stale_gradient_is_compared_with_the_exact_one() -> None:
    network = small_network()

    class Moving:
        def unroll(self, x: Tensor) -> Tensor:
            logits: Tensor = network(x)
            return 2 * logits

        def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
            return adaptation - network(x)  # type: ignore[no-any-return]

        def __call__(self, x: Tensor) -> Tensor:
            return self.predict(x, self.unroll(x).detach())

    actual = probed(Moving)
    assert actual["exact-gradient"].value == pytest.approx(-1, abs=1e-4)
    assert {"exact-gradient", "true-gradient"} <= failing(actual)


def test_the_global_random_state_is_as_before() -> None:
    before = torch.get_rng_state()
    probed(changed(lambda z, _: z + torch.randn_like(z)))
    assert torch.equal(torch.get_rng_state(), before)


# --- what is stored -------------------------------------------------------------------------------


def test_checks_are_stored_in_one_order_and_read_back() -> None:
    checks = [Check("transfer", False, 0.1, "b"), Check("repeatable", True, 0.0, "a")]
    text = to_json(checks)
    assert list(from_json(text)) == ["repeatable", "transfer"]
    assert set(from_json(text).values()) == set(checks)
    assert failed(text) == (checks[0],) and failed(None) == ()
    unmade = [check for check in unsettled(text) if check.passed is None]
    assert [item.name for item in unmade] == list(INDISPENSABLE), "what is not there was not made"
    made = to_json(Check(name, True, 0.0, "a") for name in INDISPENSABLE)
    assert unsettled(made) == ()
    assert len(set(NAMES)) == len(NAMES)


def test_natural_accuracy_against_the_card() -> None:
    assert natural_accuracy(90, 100, None).passed is None
    assert natural_accuracy(90, 100, 89.7).passed is True
    assert natural_accuracy(9000, 10_000, 89.0).passed is True, "within a point of the interval"
    off = natural_accuracy(9000, 10_000, 80.0)
    assert off.passed is False and "80% was published" in off.sentence
    require_natural(off, force=True)
    with pytest.raises(ModelError, match="--force"):
        require_natural(off, force=False)


def test_a_defense_declared_random_is_taken_at_its_word() -> None:
    actual = probed(small_network, declared=True)
    assert failing(actual) == {"repeatable"}
    assert "declared to be random" in actual["repeatable"].sentence
    assert actual["separable"].passed is None
    assert "random answers hide" in actual["separable"].sentence
