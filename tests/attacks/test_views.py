"""The views of a defense that an attack is shown, and the counting of passes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks.base import ThreatModel, margins
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.attacks.rng import SeededDefense
from dentbench.attacks.views import BatchView
from tests.attacks.toys import labels_of, small_network, tiny_images


def coupled(x: Tensor) -> Tensor:
    """Every image's logits depend on all images of the batch."""
    alone = small_network()(x)
    return alone * (1 + alone.sum())


def a_view(count: int = 5, *, whole: bool = True) -> BatchView:
    x = tiny_images(count)
    return BatchView(coupled, x, labels_of(coupled, x), ThreatModel("Linf", 0.1), whole=whole)


# --- batch mates ----------------------------------------------------------------------------------


def test_a_part_of_the_batch_is_answered_among_its_mates() -> None:
    view, rows = a_view(), torch.tensor([1, 3])
    view.points[0] += 0.05
    query = view.clean[rows] + 0.02
    view.focus(rows)
    batch = torch.stack([view.points[0], query[0], view.clean[2], query[1], view.clean[4]])
    assert torch.equal(view(query), coupled(batch)[rows])


def test_without_whole_the_defense_sees_the_query_itself() -> None:
    view, rows = a_view(whole=False), torch.tensor([1, 3])
    view.focus(rows)
    assert torch.equal(view(view.clean[rows]), coupled(view.clean[rows]))


def test_the_gradient_is_that_of_the_asked_images_among_their_mates() -> None:
    view, rows = a_view(), torch.tensor([0, 2, 4])
    view.focus(rows)
    query = view.clean[rows].clone().requires_grad_()
    (got,) = torch.autograd.grad(view(query).logsumexp(1).sum(), query)
    batch = view.clean.clone().requires_grad_()
    (all_rows,) = torch.autograd.grad(coupled(batch)[rows].logsumexp(1).sum(), batch)
    torch.testing.assert_close(got, all_rows[rows])
    assert got.is_contiguous()


def test_the_attack_may_write_into_what_it_is_given() -> None:
    answer = torch.tensor([[1.0, 2.0]] * 5)
    view = BatchView(
        lambda _: answer, tiny_images(5), torch.ones(5).long(), ThreatModel("L2", 1), whole=True
    )
    view(view.clean)[:] = -torch.inf
    assert torch.equal(answer, torch.tensor([[1.0, 2.0]] * 5))


def test_rows_are_found_by_their_clean_images() -> None:
    view = a_view()
    view.focus(torch.tensor([0, 1, 3, 4]))
    rows = torch.tensor([1, 4])
    moved = view.clean[rows] + 0.3
    batch = view.clean.index_copy(0, rows, moved)
    with view.single_run(view.clean[rows].clone(), "never"):
        assert torch.equal(view(moved), coupled(batch)[rows])
    assert torch.equal(view(view.clean[rows]), coupled(view.clean)[rows])


@pytest.mark.parametrize("which", [[2], [1, 0]], ids=["not-in-focus", "out-of-order"])
def test_an_image_that_was_not_handed_over_is_an_error(which: list[int]) -> None:
    view = a_view()
    view.focus(torch.tensor([0, 1]))
    with (
        pytest.raises(RuntimeError, match="not handed"),
        view.single_run(view.clean[torch.tensor(which)], "never"),
    ):
        pass


def test_a_run_that_drops_images_is_followed() -> None:
    view = a_view(3)
    logits = 0.01 * torch.eye(5)[view.labels]
    logits[1] = -logits[1]  # image 1 is wrong, by little
    shown: list[Tensor] = []

    def defense(x: Tensor) -> Tensor:
        shown.append(x)
        return logits

    view.defense = defense
    left = torch.tensor([0, 2])
    for shrink in ("first", "each"):
        with view.single_run(view.clean, shrink):
            view(view.clean)
            assert torch.equal(view(view.clean[left] + 0.5), logits[left])
        assert torch.equal(shown[-1][left], view.clean[left] + 0.5)
        assert torch.equal(shown[-1][1], view.clean[1])


# --- the best point -------------------------------------------------------------------------------


def test_the_point_of_the_highest_margin_inside_the_ball_is_kept() -> None:
    x = torch.full((2, 1, 1, 1), 0.5)
    view = BatchView(
        lambda z: torch.cat([z.flatten(1), 1 - z.flatten(1)], 1),  # the margin to class 1 is 2x - 1
        x,
        torch.tensor([1, 0]),
        ThreatModel("Linf", 0.25),
        whole=False,
    )
    for shift in (0.0, 0.125, 0.25, -0.25, 0.375, 0.0625):
        view(x + shift)
    assert view.best.flatten().tolist() == [0.75, 0.25]
    assert view.best_margin.tolist() == [0.5, 0.5]
    view.focus(torch.tensor([1]))
    view(torch.full((1, 1, 1, 1), 0.26))
    assert view.best.flatten().tolist() == [0.75, 0.25]


def test_what_is_kept_carries_no_graph() -> None:
    view = a_view(whole=False)
    query = (view.clean + 0.05).clamp(0, 1).requires_grad_()
    kept = margins(view(query).detach(), view.labels)
    assert not view.best.requires_grad and not view.best_margin.requires_grad
    assert torch.equal(view.best_margin, kept)


def test_logits_that_are_not_finite_are_wrong_and_have_no_gradient() -> None:
    view = a_view(whole=False)
    view.defense = lambda x: coupled(x) * torch.nan
    query = view.clean.clone().requires_grad_()
    logits = view(query)
    assert bool((logits.argmax(1) != view.labels).all())
    assert bool((view.best_margin > 0).all())
    (gradient,) = torch.autograd.grad(logits.sum(), query)
    assert bool((gradient == 0).all())


# --- counting -------------------------------------------------------------------------------------


def test_single_image_passes_are_counted() -> None:
    counter = CallCounter()
    network = CountedNetwork(small_network(), counter)
    x = tiny_images(3)
    with torch.no_grad():
        network(x)
    network(x[:2])
    assert (counter.forwards, counter.backwards) == (5, 0)
    images = x.clone().requires_grad_()
    logits = network(images)
    torch.autograd.grad(logits.sum(), images, retain_graph=True)
    torch.autograd.grad(logits[:, 0].sum(), images)
    assert (counter.forwards, counter.backwards) == (8, 6)


def test_a_copied_network_is_counted_with_the_original() -> None:
    counter = CallCounter()
    network = CountedNetwork(small_network(), counter)
    copied = copy.deepcopy(network)
    assert copied.network is not network.network
    copied(tiny_images(4))
    assert counter.forwards == 4


def test_listeners_hear_every_change() -> None:
    counter, heard = CallCounter(), []
    counter.listen = lambda: heard.append((counter.forwards, counter.backwards))
    images = tiny_images(2).requires_grad_()
    CountedNetwork(small_network(), counter)(images).sum().backward()
    assert heard == [(2, 0), (2, 2)]


# --- random numbers of the defense ----------------------------------------------------------------


def draws(seed: int, calls: int = 3) -> list[Tensor]:
    defense = SeededDefense(lambda x: torch.rand(x.shape), seed, torch.device("cpu"))
    return [defense(torch.zeros(2)) for _ in range(calls)]


def test_a_defenses_draws_are_its_own() -> None:
    expected = draws(7)
    assert len({tuple(draw.tolist()) for draw in expected}) == 3
    assert not torch.equal(draws(8)[0], expected[0])

    defense = SeededDefense(lambda x: torch.rand(x.shape), 7, torch.device("cpu"))
    for draw in expected:
        torch.manual_seed(0)  # as the attacks do
        before = torch.get_rng_state()
        assert torch.equal(defense(torch.zeros(2)), draw)
        assert torch.equal(torch.get_rng_state(), before)


def test_the_random_state_is_restored_after_a_failure() -> None:
    def broken(x: Tensor) -> Tensor:
        torch.rand(5)
        raise KeyboardInterrupt

    torch.manual_seed(3)
    before = torch.get_rng_state()
    defense = SeededDefense(broken, 7, torch.device("cpu"))
    with pytest.raises(KeyboardInterrupt):
        defense(torch.zeros(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_view_is_a_module_that_the_attacks_accept() -> None:
    assert isinstance(a_view(), nn.Module)
