"""Errors at adversarial points are no answer; errors that natural images raise too are raised."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dentbench.attacks import no_answer
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.attacks.no_answer import NoAnswers
from dentbench.containment import torch_settings_kept

NATURAL = torch.full((2, 1, 2, 2), 0.95)
POINTS = torch.arange(7.0).view(7, 1, 1, 1).expand(7, 1, 2, 2) / 10


def answer(x: Tensor) -> Tensor:
    """Logits that tell images apart."""
    return torch.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], dim=1)


def failing(where: Callable[[Tensor], bool]) -> Callable[[Tensor], Tensor]:
    def ask(x: Tensor) -> Tensor:
        if where(x):
            raise ValueError("singular")
        return answer(x)

    return ask


def tolerant(*, apart: bool = True) -> NoAnswers:
    answers = NoAnswers("defense D", 2, apart=apart)
    answers.natural = NATURAL
    return answers


@pytest.mark.parametrize("wanted", [True, False])
def test_only_the_images_that_fail_alone_have_no_answer(wanted: bool) -> None:
    rows = (1, 4, 5)
    odd = POINTS[list(rows)].flatten(1).unique(dim=0)
    ask = failing(lambda x: bool((torch.cdist(x.flatten(1), odd) == 0).any()))
    leaf = POINTS.clone().requires_grad_(wanted)
    logits = tolerant()(ask, leaf)
    expected = answer(POINTS)
    expected[list(rows)] = torch.nan
    torch.testing.assert_close(logits.detach(), expected, equal_nan=True, rtol=0, atol=0)
    if wanted:
        (gradient,) = torch.autograd.grad(torch.where(logits.isnan(), 0, logits)[:, 0].sum(), leaf)
        right = torch.ones(7).index_fill(0, torch.tensor(rows), 0)
        torch.testing.assert_close(gradient, right.view(7, 1, 1, 1).expand(7, 1, 2, 2))


def test_a_batch_whose_images_depend_on_each_other_has_no_answer_at_all() -> None:
    ask = failing(lambda x: bool((x < 0.05).any()))
    assert bool(tolerant(apart=False)(ask, POINTS).isnan().all())


@pytest.mark.parametrize(
    "where",
    [
        lambda x: len(x) == 7,  # as many natural images fail too
        lambda x: x.requires_grad,
        lambda x: True,
    ],
)
def test_what_natural_images_raise_too_is_raised(where: Callable[[Tensor], bool]) -> None:
    with pytest.raises(ValueError, match="singular"):
        tolerant()(failing(where), POINTS.clone().requires_grad_())


def test_before_natural_images_are_known_and_for_lack_of_memory_it_is_raised() -> None:
    def full(x: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(ValueError, match="singular"):
        NoAnswers("defense D", 2, apart=True)(failing(lambda x: True), POINTS)
    with pytest.raises(RuntimeError, match="out of memory"):
        tolerant()(full, POINTS)


def test_it_warns_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_answer, "_warned", set())
    ask = failing(lambda x: bool((x < 0.05).any()))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tolerant()(ask, POINTS)
    (said,) = (record.getMessage() for record in caplog.records)
    assert "defense D fails: singular" in said and "count as wrong" in said


class Setting(torch.nn.Module):
    """A network that sets all of torch at every call."""

    def forward(self, x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        return answer(x)


def settings() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
    )


def test_a_network_leaves_no_setting_of_torch_behind() -> None:
    before = settings()
    CountedNetwork(Setting(), CallCounter())(POINTS)
    assert settings() == before
    with pytest.raises(ValueError, match="odd"), torch_settings_kept():
        torch.set_default_dtype(torch.float64)
        raise ValueError("odd")
    assert settings() == before


def test_of_natural_images_no_more_is_kept_than_is_asked_about() -> None:
    """A view of few of them would take all into every copy of a defense."""
    answers = tolerant()
    answers.natural = torch.zeros(1000, 1, 2, 2)[:2]
    assert answers.natural.untyped_storage().nbytes() == answers.natural.nbytes
