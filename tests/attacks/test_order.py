"""The check "order": the first question decides only for memories that outlive a process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dentbench
from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.checks import Check, from_json
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.probes.order import APART, LEAST, ask_first, order, pairs_of
from dentbench.evaluation.checks import sanity_checks
from dentbench.spec.evaluation import AttackSpec
from dentbench.stats import fisher
from tests.attacks.toys import labels_of, small_network, tiny_images
from tests.panel.memory import Store
from tests.reference import tiny_network

EPS = {"Linf": 0.05, "L2": 0.5}


def probe_of(defense: Callable[[], Classifier], norm: str = "Linf", count: int = 24) -> Probe:
    x, network = tiny_images(count), small_network()
    return Probe(
        make=lambda after=None: defense(),
        copies=True,
        images=x,
        labels=labels_of(network, x),
        numbers=range(len(x)),
        threat=ThreatModel(norm, EPS[norm]),
        separable=True,
        steps=None,
        seed=1,
        network=network,
    )


def remembering(store: Store, asked: list[int], used_after: int = 0) -> Callable[[], Classifier]:
    """A defense whose memory all instances share, as in a file, used after so many images."""
    network = small_network()

    def answer(x: Tensor) -> Tensor:
        logits: Tensor = network(x)
        store_labels = recalled(store, x, logits.argmax(1))
        asked[0] += len(x)
        return logits if asked[0] <= used_after else logits + 50 * F.one_hot(store_labels, 5)

    return lambda: answer


def recalled(store: Store, x: Tensor, labels: Tensor) -> Tensor:
    """The store's answer, near-duplicates being within 1.2 times eps in Linf."""
    if store.images is None or store.answers is None:
        store.images, store.answers = x.detach().clone(), labels.clone()
        return labels
    distance = torch.cdist(x.flatten(1), store.images.flatten(1), p=float("inf"))
    near, which = distance.min(1)
    known = near < 1.2 * EPS["Linf"]
    result = torch.where(known, store.answers[which], labels)
    store.images = torch.cat([store.images, x.detach()[~known]])
    store.answers = torch.cat([store.answers, labels[~known]])
    return result


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pairs_are_adversarial_apart_and_always_the_same(norm: str) -> None:
    probe = probe_of(small_network, norm)
    pairs = pairs_of(probe)
    assert pairs is not None and len(pairs.labels) >= LEAST and len(pairs.labels) % 2 == 0
    assert probe.network is not None
    assert bool(probe.threat.contains(pairs.points, pairs.images).all())
    assert bool((probe.network(pairs.images).argmax(1) == pairs.labels).all())
    assert bool((probe.network(pairs.points).argmax(1) != pairs.labels).all())
    p = float("inf") if norm == "Linf" else 2.0
    everything = torch.cat([pairs.images, probe.images]).flatten(1)
    between = torch.cdist(everything, everything, p=p)[: len(pairs.images)]
    between[:, : len(pairs.images)].fill_diagonal_(torch.inf)
    assert float(between.min()) >= 0.999 * APART * EPS[norm]
    again = pairs_of(probe)
    assert again is not None and torch.equal(again.points, pairs.points)


def test_an_honest_defense_is_broken_in_either_order() -> None:
    network = small_network()
    for defense in (network, lambda x: network(x) * 3, lambda x: network(x.roll(1, -1))):
        probe = probe_of(lambda defense=defense: defense)
        ask_first(probe)
        check = order(probe)
        assert check.passed is True and check.value is not None and check.value > 0.05


@pytest.mark.parametrize("used_after", [0, 500])
def test_a_memory_that_every_process_shares_is_seen(used_after: int) -> None:
    store, asked = Store(), [0]
    make = remembering(store, asked, used_after)
    probe = probe_of(make)
    ask_first(probe)
    for _ in range(30):  # what comes between, of which the mirrored images are no part
        make()(probe.random_points(probe.images, 0))
    check = order(probe)
    assert check.passed is False and check.value is not None and check.value < 1e-3
    assert ", 0 of " in check.sentence and "order of the questions" in check.sentence


@pytest.mark.parametrize(
    "changes", [{"network": None}, {"images": tiny_images(1)}, {"threat": ThreatModel("L1", 1.0)}]
)
def test_too_little_to_compare_is_said(changes: dict[str, Any]) -> None:
    settings = {**vars(probe_of(small_network)), **changes}
    settings["labels"] = settings["labels"][: len(settings["images"])]
    probe = Probe(**settings)
    ask_first(probe)
    assert order(probe).passed is None


def test_a_network_is_never_asked_about_no_images() -> None:
    """Mirrored images that are all the same are not apart: none is left."""

    def network(x: Tensor) -> Tensor:
        assert len(x)
        return x.flatten(1)[:, :5]

    same = {"network": network, "images": torch.zeros(24, 3, 5, 5)}
    assert pairs_of(Probe(**{**vars(probe_of(small_network)), **same})) is None


def test_fisher_is_scipys() -> None:
    from scipy.stats import fisher_exact  # takes long to load, and no other test needs it

    for a, b in itertools.product(range(0, 8, 2), range(0, 10, 3)):
        table = [[a, 7 - a], [b, 9 - b]]
        expected = fisher_exact(table, alternative="greater").pvalue
        assert fisher((a, 7), (b, 9)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="are no counts"):
        fisher((8, 7), (0, 9))


def test_a_run_makes_it_after_its_protocols_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(probe: Probe) -> Check:
        made.append(probe)
        return Check("order", False, 1e-9, "the order of the questions decides")

    monkeypatch.setattr(sanity_checks, "order", counted)
    network, x = tiny_network().eval(), torch.rand(4, 3, 8, 8)

    def run(*protocols: str) -> int:
        actual = dentbench.evaluate(
            network,
            x,
            network(x).argmax(1),
            defense="norm",
            attack=AttackSpec(name="apgd-ce", eps=Fraction(1, 20), iterations=1),
            protocols=protocols,
            results=tmp_path,
            progress=None,
        )
        assert from_json(actual.defended.checks)["order"].passed is False
        return len(made)

    assert (run("published"), run("published"), run("published", "transfer")) == (1, 1, 2)
