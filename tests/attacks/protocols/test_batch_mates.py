"""Batch mates: the counts of other batches, image by image."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from dentbench.attacks.base import ThreatModel, margins
from dentbench.attacks.budget import PARTS, recombined_batches
from dentbench.attacks.protocols.batch_mates import COMPOSITIONS
from dentbench.attacks.protocols.recombined import AT_RANDOM, recombined
from dentbench.defenses.naming import built_in
from dentbench.spec.evaluation import AttackSpec
from tests.attacks.contexts import BATCHWISE, COUPLED, context_of, run, spec_of
from tests.attacks.toys import labels_of, small_network, tiny_images


class Company(nn.Module):
    """The network, but for what it answers alone: of some images a wrong class, whatever it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        if len(x) > 1:
            return logits
        return -logits if float(x[0, 0, 0, 0]) > 0.5 else logits


def planted(count: int = 12) -> tuple[Company, Any]:
    """A context in which half of the images are at points that break them."""
    network = small_network()
    x = tiny_images(count)
    x[:, 0, 0, 0] = torch.linspace(0, 1, count)
    y = labels_of(network, x)
    spec = spec_of(count, COUPLED, eps=Fraction(1, 2), iterations=2, fractions=(0.25,))
    worst = x.clone()
    worst[::2] = torch.rand(x[::2].shape, generator=torch.Generator().manual_seed(3)) * 0.5
    worst[:, 0, 0, 0] = x[:, 0, 0, 0]
    worst = x + (worst - x).clamp(-0.5, 0.5)
    return Company(network), context_of(Company(network), network, x, y, spec, starts=(worst,))


def test_what_coupling_gets_wrong_unperturbed_is_no_attacks_doing() -> None:
    defense, context = planted()
    result = run("batch-mates", context)
    x, y, points = context.images, context.labels, result.points
    assert result.elsewhere is not None
    counts, ascended = {"natural": 0, "attacked": 0, "lost": 0, "broken": 0}, 0
    for row in range(len(x)):
        natural = bool(defense(x[row][None]).argmax() == y[row])
        attacked = bool(defense(points[row][None]).argmax() == y[row])
        together = bool((margins(defense(points), y) <= 0)[row])
        counts["natural"] += natural
        counts["attacked"] += natural and attacked
        counts["lost"] += not natural  # every one is right in its declared batch
        counts["broken"] += together and natural and not attacked
        if together and natural and not attacked:
            assert not result.elsewhere[row]
        elif together and not result.elsewhere[row]:
            ascended += 1
    compositions = result.details["compositions"]
    assert compositions["alone"] == counts
    assert compositions["shuffled-ascent"]["broken"] == ascended  # wrong alone is not broken
    assert counts["lost"] > 2


def test_an_image_that_only_company_saves_is_broken() -> None:
    """Alone it is right unperturbed and wrong at its worst point."""

    class Saved(Company):
        def forward(self, x: Tensor) -> Tensor:
            moved = (x - clean(x)).abs().flatten(1).amax(1) > 1e-6
            logits: Tensor = self.network(clean(x))
            return torch.where(moved[:, None], -logits, logits) if len(x) == 1 else logits

    images = tiny_images(8)

    def clean(x: Tensor) -> Tensor:
        return images[torch.cdist(x.flatten(1), images.flatten(1)).argmin(1)]

    network = small_network()
    y = labels_of(network, images)
    spec = spec_of(8, COUPLED, eps=Fraction(1, 20), iterations=2, fractions=(0.25,))
    near = (images + 0.04).clamp(0, 1)
    context = context_of(Saved(network), network, images, y, spec, starts=(near,))
    result = run("batch-mates", context)
    assert result.elsewhere is not None and not result.elsewhere.any()
    assert result.details["compositions"]["alone"] == {
        "natural": 8,
        "attacked": 0,
        "lost": 0,
        "broken": 8,
    }
    for name in ("shuffled", "label-sorted", "among-natural"):
        assert result.details["compositions"][name]["attacked"] == 8


class Declared(nn.Module):
    """Right in the declared order, and a linear network in any other: order and company count."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.images, self.labels = images, labels

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == len(self.images) and float((x - self.images).detach().abs().max()) < 0.11:
            return torch.nn.functional.one_hot(self.labels, 5).float() + 0 * x.sum()
        return linear(x)


def linear(x: Tensor) -> Tensor:
    """Logits (B, 5) of two classes that the mean of an image's values tells, and three others."""
    rise = x.flatten(1).mean(1) - 0.5
    return torch.nn.functional.pad(torch.stack([-rise, rise], dim=1), (0, 3), value=-9.0)


class AmongNatural(Declared):
    """Right wherever all images are perturbed or none is, and a linear network in other batches."""

    def forward(self, x: Tensor) -> Tensor:
        known = torch.cdist(x.detach().flatten(1), self.images.flatten(1)).amin(1) < 1e-6
        natural = int(known.sum())
        if natural == 0 or len(x) - natural > 2:
            return self.certain(x)
        return linear(x)

    def certain(self, x: Tensor) -> Tensor:
        """Return the label of the nearest image, for certain."""
        nearest = torch.cdist(x.detach().flatten(1), self.images.flatten(1)).argmin(1)
        return torch.nn.functional.one_hot(self.labels[nearest], 5).float() + 0 * x.sum()


def images_of_means() -> tuple[Tensor, Tensor]:
    """Images of different means, and their labels by these."""
    x = 0.2 + 0.6 * tiny_images(12)
    mean = torch.linspace(0.3, 0.7, 12)
    x = x - x.mean((1, 2, 3), keepdim=True) + mean[:, None, None, None]
    x = 0.5 + (x - 0.5).clamp(-0.35, 0.35)
    return x, linear(x).argmax(1)


def test_every_composition_of_full_size_is_attacked() -> None:
    """An image is lost where its mean is within eps of one half, among natural images alone."""
    x, y = images_of_means()
    spec = spec_of(12, BATCHWISE, eps=Fraction(1, 10), iterations=40, fractions=(0.25,))
    context = context_of(AmongNatural(x, y), small_network(), x, y, spec, starts=(x,))
    result = run("batch-mates", context)
    expected = (x.flatten(1).mean(1) - 0.5).abs() >= 0.1
    assert result.elsewhere is not None
    assert torch.equal(result.elsewhere, expected)
    compositions = result.details["compositions"]
    lost = {
        name: counts["broken"] for name, counts in compositions.items() if name.endswith("-ascent")
    }
    assert lost == {
        "shuffled-ascent": 0,
        "label-sorted-ascent": 0,
        "among-natural-ascent": int((~expected).sum()),
    }
    weakly = replace(context, spec=replace(spec, defense=COUPLED))
    assert "among-natural-ascent" not in run("batch-mates", weakly).details["compositions"]


def test_what_only_the_declared_order_saves_is_broken_elsewhere() -> None:
    """In a shuffled batch an image is lost where its mean is within eps of one half."""
    x, y = images_of_means()
    spec = spec_of(12, COUPLED, eps=Fraction(1, 10), iterations=40, fractions=(0.25,))
    defense = Declared(x, y)
    context = context_of(defense, small_network(), x, y, spec, starts=(x,))
    result = run("batch-mates", context)
    assert result.elsewhere is not None
    expected = (x.flatten(1).mean(1) - 0.5).abs() >= 0.1
    assert 2 < int(expected.sum()) < 10
    assert torch.equal(result.elsewhere, expected)
    assert torch.equal(result.robust, expected)
    counts = result.details["compositions"]["shuffled-ascent"]
    assert counts == {
        "natural": 12,
        "attacked": int(expected.sum()),
        "lost": 0,
        "broken": int((~expected).sum()),
    }
    (points,) = result.witnesses
    assert ThreatModel.of(spec.attack).contains(points, x).all()
    assert torch.equal(linear(points).argmax(1) == y, expected)
    unsure = run("batch-mates", replace(context, random=True))
    assert unsure.elsewhere is not None and unsure.elsewhere.all()


class Counting(nn.Module):
    """Right everywhere, but for one image of a batch: which, the number of moved mates says."""

    def __init__(self, images: Tensor, labels: Tensor, found: Tensor, immune: int) -> None:
        super().__init__()
        self.images, self.labels, self.found, self.immune = images, labels, found, immune
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        nearest = torch.cdist(x.flatten(1), self.images.flatten(1)).argmin(1)
        logits = torch.nn.functional.one_hot(self.labels[nearest], 5).float()
        if len(x) == len(self.images):
            row = int(self.at_found(x).sum()) % len(x)
            if 0 < row != self.immune:
                logits[row] = logits[row].roll(1)
        return logits

    def at_found(self, x: Tensor) -> Tensor:
        return (x == self.found).flatten(1).all(1)


def counting(count: int = 12, **changes: Any) -> tuple[Counting, Any]:
    x = tiny_images(count)
    y = torch.arange(count) % 5
    spec = spec_of(count, COUPLED, eps=Fraction(1, 10), iterations=240, fractions=(0.25,))
    found = ThreatModel.of(spec.attack).project(x + 1, x)
    defense = Counting(x, y, found, immune=8)
    context = context_of(defense, small_network(), x, y, spec, starts=(found,))
    assert context.natural.all()
    defense.asked.clear()
    return defense, replace(context, **changes)


def test_recombined_batches_break_what_single_points_do_not() -> None:
    defense, context = counting()
    left, threat = torch.ones(12, dtype=torch.bool), ThreatModel.of(context.spec.attack)
    other = threat.project(context.images - 1, context.images)
    right, batches = recombined(context, (defense.found, other), left)
    asked = defense.asked
    assert len(asked) == recombined_batches(context.spec) == 240
    assert left.all(), "its arguments stay as they are"
    assert all(threat.contains(batch, context.images).all() for batch in asked)
    # A slow count: which image each batch broke, and the first batch that broke it.
    rows = [int(defense.at_found(batch).sum()) % 12 for batch in asked]
    expected = [row for row in range(1, 12) if row in rows and row != defense.immune]
    assert (~right).nonzero().flatten().tolist() == expected and len(expected) > 4
    firsts = [batch for row, batch in zip(rows, asked, strict=True) if row in expected]
    seen: set[int] = set()
    for batch in batches:
        number = next(n for n, other in enumerate(firsts) if torch.equal(other, batch))
        row = int(defense.at_found(firsts[number]).sum()) % 12
        assert row not in seen
        seen.add(row)
    assert seen == set(expected)
    for points in (defense.found, other):
        equal = torch.stack([(batch == points).flatten(1).all(1) for batch in asked])
        # 2,880 draws: four standard deviations.
        assert abs(float(equal.float().mean()) - (1 - AT_RANDOM) / 2) < 0.04


def test_broken_images_are_recombined_no_further() -> None:
    defense, context = counting()
    assert recombined(context, (defense.found,), torch.zeros(12, dtype=torch.bool)).right.all()
    assert not defense.asked


def test_recombined_batches_count_as_broken_and_are_handed_on_to_be_judged() -> None:
    defense, context = counting()
    result = run("batch-mates", context)
    counts = result.details["compositions"]["recombined"]
    assert counts["natural"] == 12 and counts["lost"] == 0
    shown = [defense(batch).argmax(1) == context.labels for batch in result.witnesses]
    broken = ~torch.stack(shown).all(0)
    assert not (result.robust & broken).any() and result.robust[defense.immune]
    assert 0 < counts["broken"] <= int(broken.sum()) <= 12 - counts["attacked"]


def test_a_random_defense_is_not_recombined() -> None:
    """In one batch of many it is wrong by chance."""
    _, context = counting(random=True)
    assert "recombined" not in run("batch-mates", context).details["compositions"]


def test_there_are_as_many_as_a_verdict_may_cost() -> None:
    """Half of published at most goes to all else; steps of their own couple images weakly."""
    for defense, count in ((COUPLED, 100), (BATCHWISE, 300), (built_in("norm"), 300)):
        spec = replace(spec_of(8, COUPLED), defense=defense, attack=AttackSpec(name="standard"))
        assert recombined_batches(spec) == count


def test_the_cost_of_every_composition_is_known() -> None:
    assert [*PARTS] == [*COMPOSITIONS]
