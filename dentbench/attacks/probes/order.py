"""Probe memory that outlives a process: whether the order of the first questions matters.

A file or a server that remembers answers is the same to every instance and to every process, so
none of them can be asked as if nothing had been asked before. But points that nobody ever asked
about can: of some the adversarial point is shown first, of the others the image, and much later all
adversarial points. A defense that gives near-duplicates the label that it gave first breaks on the
former alone. The images are the run's own, mirrored or shifted, so that nothing of the run is
touched, and moved on until the static model is as sure of them as of natural images: a memory may
keep no others. The points are the static model's. For b <= 32 of them it costs 2 b answers, and the
static model about 100 b passes and 7 for each of 2 b images. The check is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks import checks
from dentbench.attacks.apgd import apgd
from dentbench.attacks.base import Classifier, margins
from dentbench.attacks.checks import Check
from dentbench.attacks.losses import make_loss
from dentbench.attacks.probes.base import Probe
from dentbench.attacks.protocol_cards import OWN_NORMS
from dentbench.attacks.protocols.search import through
from dentbench.stats import fisher

STEPS: Final = 10
"""The steps of the static model's ascent."""

MOST: Final = 32
"""The most points that the defense is asked about, half of them before their images."""

LEAST: Final = 14
"""The fewest points that distinguish memory from chance at :data:`LEVEL`."""

APART: Final = 3
"""The least distance between two images, in radii of the ball."""

LEVEL: Final = 1e-3
"""The one-sided p-value of Fisher's exact test below which the order matters."""

MIRRORED: Final = ((-1,), (-2,), (-1, -2))
"""The axes along which images are mirrored."""

MOST_VALUES: Final = 1 << 12
"""The most different pixel values that natural images are taken to have."""

SHIFTED: Final = ((1, -1), (-1, -1), (1, -2), (-1, -2))
"""By how many pixels, and along which axis, images are shifted."""


@dataclass(frozen=True)
class Pairs:
    """Images (b, C, H, W), adversarial points of the static model, and its labels (b,) of images.

    Of even pairs the point is asked about first, of odd pairs the image.
    """

    images: Tensor
    points: Tensor
    labels: Tensor

    @property
    def shown_first(self) -> Tensor:
        """The points or images (b, C, H, W) that are asked about first."""
        first = self.images.clone()
        first[::2] = self.points[::2]
        return first


def pairs_of(probe: Probe) -> Pairs | None:
    """Return the pairs to ask about, the same at every call; None where there are too few."""
    if probe.network is None or probe.threat.norm not in OWN_NORMS or not probe.threat.eps:
        return None
    images = probe.images[: 2 * MOST]
    others = [images.flip(axes) for axes in MIRRORED]
    others += [images.roll(by, axis) for by, axis in SHIFTED]
    moved = _surest_first(others, probe.network)
    pairs = _broken(_surer(moved[: 3 * MOST], probe), probe)
    if len(pairs.labels) < LEAST:  # of sure images too few can be attacked
        pairs = _broken(moved, probe)
    return None if len(pairs.labels) < LEAST else pairs


def _broken(candidates: Tensor, probe: Probe) -> Pairs:
    """Return pairs of candidates (b, C, H, W) that lie apart and are broken on the static model."""
    assert probe.network is not None
    images = _apart(candidates, probe.images, probe)
    if not len(images):
        return Pairs(images, images, torch.zeros(0, dtype=torch.long))
    with torch.no_grad():
        labels = probe.network(images).argmax(1)
    loss = make_loss("margin", labels)
    points = apgd(through(probe.network), loss, images, images, probe.threat, STEPS)
    with torch.no_grad():
        broken = (margins(probe.network(points), labels) > 0).nonzero().flatten()
    broken = broken[: min(len(broken), MOST) // 2 * 2]
    return Pairs(images[broken], points[broken], labels[broken])


@torch.no_grad()
def _surest_first(images: list[Tensor], network: Classifier) -> Tensor:
    """Sort images, handed in as batches, by the network's lead, the largest first."""
    best = torch.cat([network(part) for part in images]).topk(2, dim=1).values
    return torch.cat(images)[(best[:, 1] - best[:, 0]).argsort(stable=True)]


def _surer(images: Tensor, probe: Probe) -> Tensor:
    """Return images (b, C, H, W) moved to where the network is surer, of natural values."""
    assert probe.network is not None
    with torch.no_grad():
        labels = probe.network(images).argmax(1)
    margin = make_loss("margin", labels)
    network, threat = through(probe.network), probe.threat
    surer = apgd(network, lambda logits: -margin(logits), images, images, threat, STEPS)
    values = probe.few[0].unique()
    if len(values) > MOST_VALUES:  # they lie on no grid
        return surer
    natural: Tensor = values[torch.bucketize(surer, (values[1:] + values[:-1]) / 2)]
    return natural


def ask_first(probe: Probe) -> None:
    """Ask the defense about the first of each pair, before it is asked about anything else."""
    pairs = pairs_of(probe)
    if pairs is not None:
        _ask(probe, probe.make(), pairs.shown_first)


def order(probe: Probe) -> Check:
    """Ask about all points, some time after :func:`ask_first`, and compare the halves."""
    pairs = pairs_of(probe)
    if pairs is None:
        text = f"the static model has no {LEAST} adversarial points on moved images apart"
        return Check(checks.ORDER, None, None, text)
    broken = _ask(probe, probe.make(), pairs.points).argmax(1) != pairs.labels
    first, later = (int(broken[parity::2].sum()) for parity in (0, 1))
    half = len(broken) // 2
    value = fisher((first, half), (later, half))
    sentence = (
        f"{first} of {half} adversarial points change the answer where they were asked about "
        f"before their image, {later} of {half} where after it"
    )
    passed = value >= LEVEL
    if not passed:
        sentence += ": an answer depends on the order of the questions, in this process or another"
    return Check(checks.ORDER, passed, value, sentence)


@torch.no_grad()
def _ask(probe: Probe, defense: Classifier, x: Tensor) -> Tensor:
    """Return answers to the even and to the odd rows of ``x``, each kind in its own batches."""
    size = max(len(probe.images), 1)
    answers: list[Tensor] = [torch.empty(0), torch.empty(0)]
    for parity in (0, 1):
        answers[parity] = torch.cat([defense(part) for part in x[parity::2].split(size)])
    return torch.stack(answers, dim=1).flatten(0, 1)


def _apart(candidates: Tensor, others: Tensor, probe: Probe) -> Tensor:
    """Return the first candidates (b, C, H, W) that are far from others and from each other."""
    chosen: list[int] = []
    for number, image in enumerate(candidates):
        near = torch.cat([others, candidates[chosen]])
        if float(probe.threat.distance(near, image[None]).min()) >= APART * probe.threat.eps:
            chosen.append(number)
        if len(chosen) == 2 * MOST:
            break
    return candidates[chosen]
