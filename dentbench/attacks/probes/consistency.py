"""Probe whether an answer depends on the image alone: ask again, in other batches and modes.

Each asks about natural and perturbed images, for a defense may tell them apart. For a batch
of B images: asking twice costs 4 B, the modes 4 B, mates B + 16, and perturbed images 2 B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks import checks
from dentbench.attacks.base import Classifier, scale_of
from dentbench.attacks.checks import SAME, Check
from dentbench.attacks.probes.base import Probe, relative_change
from dentbench.attacks.probes.rounding import changes_by_rounding
from dentbench.errors import ModelError

ALONE: Final = 8
"""How many images are shown alone."""


UNSEEN: Final = 0.02
"""The share of images that may move in another batch although no draw of rounding moves them."""


@dataclass(frozen=True)
class Answers:
    """Points (B, C, H, W) of a ``kind``, and the logits (B, classes) of two answers to them."""

    kind: str
    points: Tensor
    first: Tensor
    second: Tensor

    @property
    def span(self) -> float:
        """The range of the logits of the first answer."""
        return scale_of(self.first)

    @property
    def noise(self) -> float:
        """How far the two answers are apart."""
        return relative_change(self.second, self.first)


@torch.no_grad()
def ask_twice(probe: Probe) -> tuple[Classifier, tuple[Answers, ...]]:
    """Return a defense, and its answers to natural and to perturbed images."""
    perturbed = probe.perturbed
    defense = probe.make()
    kinds = (("natural", probe.images), ("perturbed", perturbed))
    return defense, tuple(Answers(kind, x, defense(x), defense(x)) for kind, x in kinds)


def is_random(probe: Probe, answers: Sequence[Answers]) -> bool:
    """Return whether the defense is declared to be random, or its answers show it."""
    return probe.random or max(reply.noise for reply in answers) > SAME


def repeatable(answers: Sequence[Answers], *, declared_random: bool = False) -> Check:
    """Compare two answers to the same batch; a defense declared to be random fails anyway.

    Few images may show it, such as those near to the decision boundary.
    """
    change, kind = _largest(answers, lambda reply: reply.noise)
    sentence = (
        "the same batch gets the same answer twice, natural and perturbed"
        if change <= SAME
        else f"the same batch gets two answers (logits of {kind} images differ by {change:.2g} of "
        "their range): the defense is random or remembers earlier questions; run the protocol eot"
    )
    if declared_random:
        sentence = (
            f"its answers are declared to be random (logits of {kind} images differed by "
            f"{change:.2g} of their range); run the protocol eot"
        )
    return Check(checks.REPEATABLE, change <= SAME and not declared_random, change, sentence)


@torch.no_grad()
def separable(probe: Probe, defense: Classifier, answers: Sequence[Answers]) -> Check:
    """Compare answers in the declared batch with those alone and in half a batch, reversed."""
    half = torch.arange(len(probe.images), device=probe.images.device)[::2].flip(0)

    moved = {reply.kind: torch.zeros(len(reply.points)).to(reply.first) for reply in answers}

    def in_company(reply: Answers) -> float:
        answered = torch.cat([defense(image[None]) for image in reply.points[:ALONE]])
        rows = torch.arange(len(answered), device=half.device)
        for some, logits in ((rows, answered), (half, defense(reply.points[half]))):
            change = (logits - reply.first[some]).abs().amax(1) / reply.span
            moved[reply.kind][some] = torch.maximum(moved[reply.kind][some], change)
        return float(moved[reply.kind].max())

    try:
        change, kind = _largest(answers, in_company)
    except (RuntimeError, ValueError, ModelError) as error:
        if isinstance(error, ModelError) and probe.separable:
            raise  # attacks will ask about single images
        return Check(checks.SEPARABLE, None, None, f"it does not take a single image: {error}")
    if is_random(probe, answers):
        text = "random answers hide whether they depend on batch mates"
        return Check(checks.SEPARABLE, None, change, text)
    depends = change > SAME
    sentence = "an image's answer does not depend on its batch mates"
    explained = _by_rounding(defense, answers, moved) if depends and probe.separable else 0.0
    if explained:
        depends = False
        sentence += f" but by rounding: it moves by {change:.2g} of the range in other company, "
        sentence += f"and by {explained:.2g} in the same where sums are rounded otherwise"
    if depends:
        sentence = f"a {kind} image's answer depends on its batch mates (by {change:.2g} of the "
        sentence += "range)"
        if probe.separable:
            sentence += ", although the defense is declared separable: it was attacked wrongly"
        else:
            sentence += ", as declared"
    return Check(checks.SEPARABLE, not (depends and probe.separable), change, sentence)


def _by_rounding(
    defense: Classifier, answers: Sequence[Answers], moved: Mapping[str, Tensor]
) -> float:
    """Return the largest change by rounding if that explains those in other company, else 0.

    ``moved``: by kind, how far each image's logits (B,) move there, as shares of the range.
    Rounding explains it where it moves the same images, but for :data:`UNSEEN` of them, and half
    as far.
    """
    largest, beyond, total = 0.0, 0, 0
    for reply in answers:
        drawn = changes_by_rounding(defense, reply.points, reply.first)
        if not drawn:
            return 0.0
        still = torch.stack(drawn).amax(0) / reply.span
        largest = max(largest, float(still.max()))
        beyond += int(((moved[reply.kind] > SAME) & (still <= SAME)).sum())
        total += len(still)
    far = max(float(change.max()) for change in moved.values())
    explained = far <= 2 * largest and beyond <= UNSEEN * total
    return largest if explained else 0.0


def modes(probe: Probe, answers: Sequence[Answers]) -> Check:
    """Compare answers where a gradient is wanted with those where none is."""
    if is_random(probe, answers) and not (probe.copies and _is_seeded(probe)):
        text = f"random answers hide whether they depend on gradients being wanted{_OWN_NUMBERS}"
        return Check(checks.MODES, None, None, text)
    change, kind = _largest(answers, lambda reply: _mode_change(probe, reply.points))
    sentence = (
        "answers are the same with and without gradients"
        if change <= SAME
        else f"answers to {kind} images depend on whether a gradient is wanted (by {change:.2g} of "
        "the range): the attack and the judge see different answers; answer alike in both modes"
    )
    return Check(checks.MODES, change <= SAME, change, sentence)


_OWN_NUMBERS: Final = (
    ": new instances answer differently; draw from torch's numbers, Python's or NumPy's"
)


@torch.no_grad()
def _is_seeded(probe: Probe) -> bool:
    """Return whether two new instances draw the same random numbers, if they draw any."""
    x, _ = probe.few
    first, second = probe.make(), probe.make()
    return relative_change(first(x), second(x)) <= SAME


def _mode_change(probe: Probe, points: Tensor) -> float:
    leaf = points.detach().clone().requires_grad_()
    with torch.enable_grad():
        attacked = probe.make()(leaf).detach()
    with torch.no_grad():
        return relative_change(attacked, probe.make()(points))


@torch.no_grad()
def stateless(probe: Probe, *, random: bool = False) -> Check:
    """Ask about nearby points before and after the clean images, each time a defense as if new.

    ``random``: whether its answers are; new ones must then draw the same numbers.
    """
    if not probe.copies:
        return Check(checks.STATELESS, None, None, "the defense cannot be copied, so not checked")
    x, _ = probe.few
    near = probe.random_points(x, 0)
    if random and not _is_seeded(probe):
        text = f"random answers hide whether they depend on earlier questions{_OWN_NUMBERS}"
        return Check(checks.STATELESS, None, None, text)
    used = probe.make()
    used(x)
    fresh = probe.make(used)
    change = relative_change(used(near), fresh(near))
    sentence = (
        "an answer does not depend on earlier questions"
        if change <= SAME
        else f"answers depend on earlier questions (by {change:.2g} of the range): an "
        "attacked image is judged with what the defense kept of the clean image"
    )
    return Check(checks.STATELESS, change <= SAME, change, sentence)


def logits(answers: Tensor) -> Check:
    """Tell probabilities, in answers (B, classes), from logits."""
    near_one = (answers.sum(1) - 1).abs() < 1e-3
    share = float((near_one & (answers.amin(1) >= 0) & (answers.amax(1) <= 1)).double().mean())
    sentence = (
        "the outputs are not probabilities"
        if share < 1
        else "the outputs look like probabilities, not logits (each row is in [0, 1] and sums to "
        "1): cross-entropy gradients vanish where they saturate; hand in the logits"
    )
    return Check(checks.LOGITS, share < 1, share, sentence)


def in_range(images: Tensor) -> Check:
    """Say whether images lie in [0, 1]."""
    low, high = float(images.min()), float(images.max())
    inside = low >= 0 and high <= 1
    text = f"images lie in [{low:.3g}, {high:.3g}]" + ("" if inside else ", not in [0, 1]")
    return Check(checks.IN_RANGE, inside, max(-low, high - 1, 0.0), text)


def _largest(answers: Sequence[Answers], *changes: Callable[[Answers], float]) -> tuple[float, str]:
    """Return the largest of some changes of answers, and of which kind of images it is."""
    return max(
        ((change(reply), reply.kind) for reply in answers for change in changes),
        key=lambda two: two[0],
    )
