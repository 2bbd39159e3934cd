"""Our outer loop against pyautoattack's own, and its own promises: batches, survivors."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from dentbench.attacks.base import judge, margins
from dentbench.attacks.rng import SeededDefense
from dentbench.attacks.views import BatchView
from dentbench.errors import DataError, ModelError
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import NORMS, AttackSpec
from tests.attacks.toys import attacked, labels_of, small_network, tiny_images

SINGLE = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
MODERATE = {"Linf": Fraction(1, 50), "L2": Fraction(1, 10), "L1": Fraction(1, 2)}
"""Radii at which some images of the small network break and others survive."""


def subject(count: int = 16, *, coupled: bool = False) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images that it gets right, and one image that it gets wrong."""
    network, x = small_network(coupled=coupled), tiny_images(count)
    y = labels_of(network, x)
    y[3] = (y[3] + 1) % 5
    return network, x, y


# --- equal to AutoAttack --------------------------------------------------------------------------


def official(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: AttackSpec,
    batch_size: int,
    parts: int | None = None,
) -> tuple[Tensor, Tensor]:
    """AutoAttack itself with a shortened budget, all parts or the first: flags and images."""
    assert spec.iterations is not None and spec.queries is not None
    suite = AutoAttack(network, norm=spec.norm, eps=float(spec.eps), seed=11, version=spec.name)
    suite.attacks_to_run = suite.attacks_to_run[:parts]
    for attack in (suite.apgd, suite.apgd_targeted):
        attack.n_iter = attack.n_iter_orig = spec.iterations
        attack.n_iter_2 = max(int(0.22 * spec.iterations), 1)
        attack.n_iter_min = max(int(0.06 * spec.iterations), 1)
        attack.size_decr = max(int(0.03 * spec.iterations), 1)
    suite.fab.n_iter = spec.iterations
    suite.square.n_queries = spec.queries
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = 4  # there are 5 classes
    tracer = sys.gettrace()  # one of its checks switches tracing off
    points, answers = suite.run_standard_evaluation(x.clone(), y.clone(), batch_size=batch_size)
    sys.settrace(tracer)
    return answers == y, points


@pytest.mark.parametrize(
    ("version", "norm", "batch_size", "coupled"),
    [
        ("standard", "Linf", 12, False),
        ("standard", "L2", 6, True),
        *(("standard", "L1", *how) for how in ((12, False), (6, True))),  # an attack of its own
        ("plus", "Linf", 12, False),
        ("rand", "L2", 12, False),
        ("rand", "Linf", 6, True),
    ],
)
def test_equals_autoattack(version: str, norm: str, batch_size: int, coupled: bool) -> None:
    """Coupled images tell that survivors are packed into batches exactly as AutoAttack does."""
    network, x, y = subject(12, coupled=coupled)
    budget = {"iterations": 2 if version == "rand" else 3, "queries": 8}
    spec = AttackSpec(name=version, norm=norm, eps=MODERATE[norm], **budget)
    batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
    natural = torch.cat([judge(network, *batch) for batch in batches])

    flags, points = official(network, x, y, spec, batch_size)
    ours, view = attacked(network, x, y, spec, natural=natural, chunk=batch_size)

    assert torch.equal(ours.robust, flags)
    broken = natural & ~flags
    assert broken.any() and flags.any()
    # Where AutoAttack oversteps the ball by rounding, ours are pulled back.
    tolerance = 0.0 if norm == "Linf" else 1e-6
    torch.testing.assert_close(ours.points[broken], points[broken], rtol=0, atol=tolerance)
    assert view.threat.contains(ours.points, x).all()


@pytest.mark.parametrize(("version", "norm"), [("standard", "Linf"), ("plus", "L2")])
def test_each_image_is_credited_to_the_part_that_breaks_it(version: str, norm: str) -> None:
    network, x, y = subject(32)
    spec = AttackSpec(name=version, norm=norm, eps=MODERATE[norm], iterations=1, queries=60)
    ours, _ = attacked(network, x, y, spec)

    parts = ATTACKS[version].parts
    flags = [judge(network, x, y)]
    flags += [official(network, x, y, spec, 32, n + 1)[0] for n in range(len(parts))]
    expected = [""] * 32
    for name, (before, after) in zip(parts, pairwise(flags), strict=True):
        for row in (before & ~after).nonzero().flatten().tolist():
            expected[row] = name
    expected[3] = "natural"
    assert list(ours.broken_by) == expected
    assert len(set(expected)) >= 4


# --- declared batches -----------------------------------------------------------------------------

CORNERS = torch.tensor([0.05, 0.35, 0.65, 0.95])
"""Value of each clean image's first pixel, by which a defense can tell which image it is shown."""

SMALL = {"Linf": Fraction(1, 50), "L2": Fraction(1, 10), "L1": Fraction(1, 24)}
"""Radii of less than a third of half the distance between corners: L1 starts at three times eps."""


class Witness(nn.Module):
    """A coupled defense of four images that writes down every batch that it is shown.

    It is blind to the corner, so that FAB, which may leave the ball, leaves the corner alone.
    ``moody``: at every third call it answers wrongly on one image, so that the attacks drop images
    at any point.
    """

    def __init__(self, *, moody: bool) -> None:
        super().__init__()
        self.moody = moody
        self.weight = torch.randn(75, 5, generator=torch.Generator().manual_seed(5))
        self.weight[0] = 0
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x.detach().clone())
        alone = x.flatten(1) @ self.weight
        logits: Tensor = alone + 0.02 * alone.mean(0)
        calls = len(self.batches)
        if self.moody and calls % 3 == 0:
            mood = torch.ones(len(x), 1)
            mood[calls // 3 % len(x)] = -1
            logits = logits * mood
        return logits


def witnessed(norm: str, *, moody: bool) -> tuple[Witness, Tensor, Tensor]:
    """A witness, four images at 0.3, 0.8, 1.5 and 5 times eps from being wrong, their labels."""
    witness = Witness(moody=False)
    pool = tiny_images(4000, seed=2)
    logits = witness(pool)
    y = logits.argmax(1)
    order = {"Linf": 1.0, "L2": 2.0, "L1": float("inf")}[norm]  # the dual norm
    apart = (witness.weight.T[y][:, None] - witness.weight.T).norm(order, dim=2)
    gap = logits.gather(1, y[:, None]) - logits
    distance = (gap / apart).scatter(1, y[:, None], torch.inf).amin(1) / float(SMALL[norm])
    rows = torch.stack([(distance - wanted).abs().argmin() for wanted in (0.3, 0.8, 1.5, 5.0)])
    x = pool[rows]
    x[:, 0, 0, 0] = CORNERS
    return Witness(moody=moody), x, y[rows]


def who(x: Tensor) -> list[int]:
    """Which images are shown, told by their corners."""
    shown: list[int] = (x[:, 0, 0, 0, None] - CORNERS).abs().argmin(1).tolist()
    return shown


SITUATIONS = {
    "all": ((True, True, True, True), False),
    "all-moody": ((True, True, True, True), True),
    "some-moody": ((False, True, True, True), True),
    "ends": ((True, False, False, True), False),
}
"""Which images are right without an attack, and whether the defense is moody."""


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("name", "situation"),
    [
        *(("standard", situation) for situation in SITUATIONS),
        ("plus", "some-moody"),
        *((name, "all-moody") for name in SINGLE),
    ],
)
def test_every_call_is_the_declared_batch(name: str, norm: str, situation: str) -> None:
    natural, moody = SITUATIONS[situation]
    witness, x, y = witnessed(norm, moody=moody)
    spec = AttackSpec(name=name, norm=norm, eps=SMALL[norm], iterations=2, queries=6, targets=2)
    started: list[str] = []
    calls: list[tuple[int, Tensor, Tensor]] = []  # part, what the attack asked, what was shown

    def listen(view: BatchView) -> None:
        view.register_forward_hook(
            lambda _, asked, __: calls.append(
                (len(started) - 1, asked[0].detach().clone(), witness.batches[-1])
            )
        )

    result, view = attacked(
        witness,
        x,
        y,
        spec,
        whole=True,
        natural=torch.tensor(natural),
        seed_of=lambda part, _: started.append(part) or 11,  # type: ignore[func-returns-value]
        prepare=listen,
    )

    assert len(calls) == len(witness.batches) >= 5
    for part, asked, shown in calls:
        assert who(shown) == [0, 1, 2, 3]
        rows = who(asked)
        assert rows == sorted(set(rows)) and all(natural[row] for row in rows)
        assert torch.equal(shown[rows], asked)
        for row in set(range(4)) - set(
            rows
        ):  # the mates: clean, or where an earlier part left them
            broken = result.broken_by[row] in started[:part]
            assert torch.equal(shown[row], result.points[row] if broken else x[row])
        if not started[part].startswith("fab"):
            reach = 3 if norm == "L1" else 1
            assert (view.threat.distance(asked, x[rows]) <= reach * view.threat.eps + 1e-6).all()
    assert view.threat.contains(result.points, x).all()
    if not moody and name in ("standard", "plus") and natural[0]:
        assert result.broken_by[0] == started[0] and result.broken_by[3] == ""


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("moody", [False, True], ids=["steady", "moody"])
def test_duplicates_of_an_image_are_shown_as_declared(norm: str, moody: bool) -> None:
    witness, x, y = witnessed(norm, moody=moody)
    rows = torch.tensor([1, 0, 1, 3, 2, 3])
    spec = AttackSpec(name="plus", norm=norm, eps=SMALL[norm], iterations=2, queries=6, targets=2)
    result, view = attacked(
        witness, x[rows], y[rows], spec, whole=True, natural=torch.ones(6, dtype=torch.bool)
    )
    assert len(witness.batches) > 50
    assert all(who(shown) == rows.tolist() for shown in witness.batches)
    assert view.threat.contains(result.points, x[rows]).all()


def test_no_image_to_attack_is_no_call_at_all() -> None:
    witness, x, y = witnessed("Linf", moody=False)
    natural = torch.zeros(4, dtype=torch.bool)
    result, _ = attacked(witness, x, y, AttackSpec(), whole=True, natural=natural)
    assert not witness.batches
    assert torch.equal(result.points, x)
    assert result.broken_by == ("natural",) * 4


# --- survivors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "norm"),
    [*(("standard", norm) for norm in NORMS), *((name, "Linf") for name in SINGLE)],
)
def test_survivors_keep_the_best_point_of_all_that_were_asked(name: str, norm: str) -> None:
    """Written down by hand: each query inside the ball, its image told by the corner, its margin.

    That includes the attack's last iterate and the clean image.
    """
    network, x, y = subject(4)
    x[:, 0, 0, 0] = CORNERS
    network[0].weight.data[:, 0, 0, 0] = 0  # type: ignore[operator, union-attr, index]
    y = labels_of(network, x)
    spec = AttackSpec(name=name, norm=norm, eps=SMALL[norm] / 4, iterations=3, queries=8)
    best = [(-float("inf"), x[0])] * 4

    def write_down(view: BatchView, asked: tuple[Tensor], logits: Tensor) -> None:
        for row, point, margin in zip(
            who(asked[0]),
            asked[0].detach(),
            margins(logits, y[who(asked[0])]).tolist(),
            strict=True,
        ):
            inside = view.threat.contains(point[None], x[row : row + 1]).item()
            if inside and margin > best[row][0]:
                best[row] = (margin, point.clone())

    result, view = attacked(
        network, x, y, spec, prepare=lambda view: view.register_forward_hook(write_down)
    )

    survivors = result.robust.nonzero().flatten().tolist()
    assert len(survivors) >= 2
    clean_margins = margins(network(x), y).tolist()
    for row in survivors:
        margin, point = best[row]
        assert torch.equal(result.points[row], point)
        assert margin >= clean_margins[row]
        if name == "standard" or name.startswith("apgd"):  # FAB asks about few points of the ball
            assert margin > clean_margins[row]
            assert not torch.equal(result.points[row], x[row])
    assert view.threat.contains(result.points, x).all()


def test_images_that_were_wrong_from_the_start_stay_as_they_are() -> None:
    network, x, y = subject(8)
    result, _ = attacked(
        network, x, y, AttackSpec(name="apgd-ce", eps=Fraction(1, 9), iterations=2)
    )
    assert torch.equal(result.points[3], x[3])
    assert not result.robust[3] and result.broken_by[3] == "natural"


@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_breaks_nothing(norm: str) -> None:
    network, x, y = subject(6)
    spec = AttackSpec(name="plus", norm=norm, eps=Fraction(0), iterations=2, queries=3)
    result, _ = attacked(network, x, y, spec)
    assert torch.equal(result.robust, judge(network, x, y))
    torch.testing.assert_close(result.points, x, rtol=0, atol=2e-6)


# --- odd models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize(
    ("name", "norm"), [*(("standard", norm) for norm in NORMS), ("plus", "Linf")]
)
def test_few_classes(name: str, norm: str, classes: int) -> None:
    network, x = small_network(classes), tiny_images(8)
    y = labels_of(network, x)
    spec = AttackSpec(name=name, norm=norm, eps=5 * MODERATE[norm], iterations=2, queries=3)
    result, view = attacked(network, x, y, spec, classes=classes)
    assert not result.robust.all()
    assert torch.equal(judge(network, result.points, y), result.robust)
    assert view.threat.contains(result.points, x).all()


@pytest.mark.parametrize("name", ["apgd-t", "apgd-dlr"])
@pytest.mark.parametrize("classes", [2, 3])
def test_margin_attacks_find_a_linear_networks_boundary(name: str, classes: int) -> None:
    """The closed form: under Linf an image breaks if its gap is below eps times the L1 norm."""
    x = 0.25 + tiny_images(24) / 2  # far from the box's edge
    weight = torch.randn(75, classes, generator=torch.Generator().manual_seed(3))

    def network(images: Tensor) -> Tensor:
        return images.flatten(1) @ weight

    y = labels_of(network, x)
    gap = network(x).gather(1, y[:, None]) - network(x)
    apart = (weight.T[y][:, None] - weight.T).abs().sum(2)
    distance = (gap / apart).scatter(1, y[:, None], torch.inf).amin(1)
    eps = Fraction(round(255 * distance.median().item() * 4), 255 * 4)
    result, _ = attacked(
        network, x, y, AttackSpec(name=name, eps=eps, iterations=20), classes=classes
    )
    clear = (distance / float(eps) - 1).abs() > 0.02
    assert torch.equal(result.robust[clear], (distance > float(eps))[clear])
    assert clear.sum() > 20


def test_one_class_is_refused() -> None:
    x = tiny_images(2)
    with pytest.raises(ModelError, match="the model has 1 class"):
        attacked(small_network(1), x, torch.zeros(2).long(), AttackSpec(), classes=1)


@pytest.mark.parametrize("norm", NORMS)
def test_images_too_small_for_square_are_refused(norm: str) -> None:
    x, y = tiny_images(2, shape=(1, 4, 6)), torch.zeros(2, dtype=torch.long)
    weight = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    spec = AttackSpec(norm=norm, iterations=2, queries=2)
    try:
        attacked(lambda z: z.flatten(1) @ weight, x, y, spec, classes=3)
    except DataError as error:
        assert norm != "Linf"
        assert str(error) == f"Square in {norm} needs 5 rows of pixels; the images have 4"
    else:
        assert norm == "Linf"


@pytest.mark.parametrize("name", SINGLE)
def test_a_defense_that_answers_nan_under_attack_is_broken_there(name: str) -> None:
    network, x, y = subject(4)

    def fragile(images: Tensor) -> Tensor:
        logits: Tensor = network(images)
        return logits if torch.equal(images, x[: len(images)]) else logits * torch.nan

    result, _ = attacked(fragile, x, y, AttackSpec(name=name, iterations=2, queries=2))
    assert not bool(result.robust.any())
    assert bool(torch.isfinite(result.points).all())


@pytest.mark.parametrize("norm", NORMS)
def test_images_and_networks_in_channels_last(norm: str) -> None:
    """The attacks call ``view``, which another memory format than the usual one does not take."""
    network, x, y = subject(6)
    spec = AttackSpec(name="plus", norm=norm, eps=MODERATE[norm], iterations=2, queries=3)
    usual, _ = attacked(network, x, y, spec)
    other, _ = attacked(
        network.to(memory_format=torch.channels_last),
        x.contiguous(memory_format=torch.channels_last),
        y,
        spec,
    )
    assert torch.equal(usual.robust, other.robust)
    torch.testing.assert_close(usual.points, other.points, rtol=0, atol=1e-5)


# --- random numbers -------------------------------------------------------------------------------


def test_the_global_random_state_is_restored() -> None:
    network, x, y = subject(6)
    spec = AttackSpec(name="plus", eps=MODERATE["Linf"], iterations=1, queries=2)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    attacked(network, x, y, spec)
    assert torch.equal(torch.rand(3), expected)


def test_each_part_and_chunk_has_its_own_seed() -> None:
    network, x, y = subject(7)
    spec = AttackSpec(name="plus", eps=Fraction(0), iterations=1, queries=1)
    asked: list[tuple[str, int]] = []

    def seed_of(name: str, chunk: int) -> int:
        asked.append((name, chunk))
        return len(asked)

    attacked(network, x, y, spec, seed_of=seed_of, chunk=3)  # 6 of 7 are right: 2 chunks
    assert asked == [(part, chunk) for part in ATTACKS["plus"].parts for chunk in (0, 1)]


def test_other_seeds_give_other_points() -> None:
    network, x, y = subject(6)
    spec = AttackSpec(name="square", eps=MODERATE["Linf"], queries=3)
    first, again, other = (
        attacked(network, x, y, spec, seed_of=lambda *_, seed=seed: seed)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, other.points)


class Dithered(nn.Module):
    """A stochastic defense: noise on every image at every call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + 0.01 * torch.randn_like(x))
        return logits


@pytest.mark.parametrize("name", ["standard", "rand"])
def test_a_stochastic_defense_draws_from_its_own_stream(name: str) -> None:
    """Its draws depend on its own seed alone: not on the caller's state nor on the attack's."""
    network, x, y = subject(6)
    spec = AttackSpec(name=name, eps=MODERATE["Linf"], iterations=2, queries=4)
    noise: dict[int, list[Tensor]] = {}

    def run(defense_seed: int, attack_seed: int, caller_seed: int) -> Tensor:
        dithered, heard = Dithered(network), noise.setdefault(len(noise), [])
        handle = network.register_forward_pre_hook(lambda _, seen: heard.append(seen[0].detach()))
        torch.manual_seed(caller_seed)
        defense = SeededDefense(dithered, defense_seed, torch.device("cpu"))
        everything = torch.ones(6, dtype=torch.bool)
        result, _ = attacked(
            defense, x, y, spec, natural=everything, seed_of=lambda *_: attack_seed
        )
        handle.remove()
        return result.points

    first = run(1, 11, 0)
    assert torch.equal(run(1, 11, 99), first)
    assert not torch.equal(run(2, 11, 0), first)
    run(1, 12, 0)
    # The first call is on the clean images, so it shows the noise itself.
    assert torch.equal(noise[0][0], noise[3][0])
    assert not torch.equal(noise[0][0], noise[2][0])
