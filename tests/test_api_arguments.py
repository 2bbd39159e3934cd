"""Arguments from Python, in the types that people have them in."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from dentbench.api.arguments import (
    attack_of,
    dataset_of,
    defense_spec_of,
    plain_number,
    protocols_listed,
    schedule_of,
)
from dentbench.errors import DataError, DentBenchError, SpecError
from dentbench.spec.evaluation import DentSpec, exact_eps


@pytest.mark.parametrize("four", [4, np.int64(4), np.array(4), torch.tensor(4)])
def test_a_number_is_one_in_any_writing(four: Any) -> None:
    number = plain_number(four)
    assert number == 4 and type(number) is int


def test_what_is_no_number_is_left_to_be_refused() -> None:
    assert len(plain_number(torch.ones(2))) == 2
    assert plain_number("x") == "x" and plain_number(None) is None and plain_number("8") == "8"


@pytest.mark.parametrize("half", ["0.5", 0.5, Decimal("0.5"), np.float32(0.5), torch.tensor(0.5)])
def test_eps_is_exact_in_any_type(half: Any) -> None:
    assert exact_eps(half) == Fraction(1, 2)


@pytest.mark.parametrize("eps", [np.array([0.1, 0.2]), torch.ones(2), Decimal("nan"), [0.1], 1j])
def test_eps_that_is_no_single_number_is_refused(eps: Any) -> None:
    with pytest.raises(SpecError, match="eps is"):
        exact_eps(eps)


@pytest.mark.parametrize(
    ("written", "norm"),
    [("L_inf", "Linf"), ("inf", "Linf"), (np.inf, "Linf"), (2, "L2"), ("2", "L2"), ("l_1", "L1")],
)
def test_a_norm_has_many_writings(written: Any, norm: str) -> None:
    assert attack_of("quick", "1/255", written).norm == norm


def test_a_norm_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="norm is '0'; allowed: Linf, L2, L1"):
        attack_of("quick", "1/255", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("defense", [3, {"steps": 2}, DentSpec])
def test_what_cannot_defend_is_refused(defense: Any) -> None:
    with pytest.raises(SpecError, match=r"give a name, a DentSpec\(\), an object"):
        defense_spec_of(defense)


@pytest.mark.parametrize("images", [None, "images.npz", 3, {1, 2}, iter([])])
def test_images_that_are_no_array_are_named_by_their_type(images: Any) -> None:
    with pytest.raises(DataError, match=f"of type {type(images).__name__}"):
        dataset_of(images, [0], "d")


def test_limits_are_taken_as_on_the_command_line() -> None:
    for passes in (1_000_000, 1e6, "1e6", np.int64(10**6)):
        assert schedule_of(None, "90m", passes).pass_limit == 1_000_000
    assert protocols_listed(None) == ()
    for limits in (("2", None), (2, None), (None, -1), (None, "x")):
        with pytest.raises(DentBenchError, match="-limit is"):
            schedule_of(None, *limits)
