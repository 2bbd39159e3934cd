"""Checks that ask the defense itself, on its first declared batch; a few calls, then no more.

For a batch of B images, of which the first b = min(B, 16) stand for all where gradients are
asked: repeating costs 2 B, mates B / 2 + 8, memory 3 b, gradients 4 b, one of them exact where
the defense has that, and the ascent 26 b single-image calls: at most 2.5 B + 33 b + 8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.attacks import checks as names
from dentbench.attacks.apgd import apgd, random_start
from dentbench.attacks.base import Classifier, ThreatModel, margins
from dentbench.attacks.catalogue import OWN_NORMS
from dentbench.attacks.checks import SAME, Check
from dentbench.attacks.losses import make_loss
from dentbench.attacks.protocols.search import through

IMAGES: Final = 16
"""How many images are asked for gradients."""

ALONE: Final = 8
"""How many images are shown alone."""

COSINE: Final = 0.9
"""The least mean cosine of the published with the exact gradient."""

KEPT: Final = 0.5
"""The least share of the rise that a gradient promises which a short step along it must bring."""

STEPS: Final = 20
DRAWS: Final = 5
"""The ascent's steps, and the random points that it must beat."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What is examined.

    ``make()`` returns the defense as it was before any question, each time afresh if it can be
    copied (``copies``), and ``make(other)`` with the random numbers that ``other`` draws next.
    ``images`` (B, C, H, W) and ``labels`` (B,): the first declared batch; ``separable``: what the
    spec declares; ``steps``: the adaptation steps of dent, None where there are none.
    """

    make: Callable[..., Classifier]
    copies: bool
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    separable: bool
    steps: int | None
    seed: int

    @property
    def few(self) -> tuple[Tensor, Tensor]:
        """The images and labels that are asked for gradients."""
        return self.images[:IMAGES], self.labels[:IMAGES]

    def random_points(self, clean: Tensor, number: int) -> Tensor:
        """Return random points of the ball around clean images, the same for one number."""
        if self.threat.norm not in OWN_NORMS:
            return clean.flip(-1)
        generator = torch.Generator().manual_seed(self.seed + number)
        return random_start(clean, self.threat, generator)


def probe(what: Probe) -> tuple[Check, ...]:
    """Return every check that asks the defense; the global random state is as before."""
    return (
        *_answers(what),
        _stateless(what),
        _in_range(what.images),
        *_gradients(what),
        _ascent(what),
    )


# --- answers --------------------------------------------------------------------------------------


@torch.no_grad()
def _answers(what: Probe) -> tuple[Check, ...]:
    """Ask twice, then about the images in other company."""
    defense, x = what.make(), what.images
    first, second = defense(x), defense(x)
    change = relative_change(second, first)
    repeatable = Check(
        names.REPEATABLE,
        change <= SAME,
        change,
        "the same batch gets the same answer twice"
        if change <= SAME
        else f"the same batch gets two answers (logits differ by {change:.2g} of their range): "
        "the defense is random or remembers what it was asked; run the protocol eot",
    )
    return repeatable, _separable(what, defense, first, change), _logits(first)


def _separable(what: Probe, defense: Classifier, first: Tensor, noise: float) -> Check:
    """Compare answers in the declared batch with those alone and in half a batch, reversed."""
    x = what.images
    half = torch.arange(len(x), device=x.device)[::2].flip(0)
    try:
        alone = torch.cat([defense(image[None]) for image in x[:ALONE]])
    except (RuntimeError, ValueError) as error:
        return Check(names.SEPARABLE, None, None, f"it does not take a single image: {error}")
    change = max(
        relative_change(alone, first[:ALONE]), relative_change(defense(x[half]), first[half])
    )
    if noise > SAME:
        text = "random answers hide whether they depend on batch mates"
        return Check(names.SEPARABLE, None, change, text)
    depends = change > SAME
    sentence = "an image's answer does not depend on its batch mates"
    if depends:
        sentence = f"an image's answer depends on its batch mates (by {change:.2g} of the range)"
        if what.separable:
            sentence += ", although the defense is declared separable: it was attacked wrongly"
        else:
            sentence += ", as declared"
    return Check(names.SEPARABLE, not (depends and what.separable), change, sentence)


def _logits(answers: Tensor) -> Check:
    near_one = (answers.sum(1) - 1).abs() < 1e-3
    share = float((near_one & (answers.amin(1) >= 0) & (answers.amax(1) <= 1)).double().mean())
    sentence = (
        "the outputs are not probabilities"
        if share < 1
        else "the outputs look like probabilities, not logits (each row is in [0, 1] and sums to "
        "1): cross-entropy gradients vanish where they saturate; hand in the logits"
    )
    return Check(names.LOGITS, share < 1, share, sentence)


@torch.no_grad()
def _stateless(what: Probe) -> Check:
    """Ask about nearby points before and after the clean images, each a defense as if new."""
    if not what.copies:
        return Check(names.STATELESS, None, None, "the defense cannot be copied, so not checked")
    x, _ = what.few
    near = what.random_points(x, 0)
    used = what.make()
    used(x)
    fresh = what.make(used)
    change = relative_change(used(near), fresh(near))
    sentence = (
        "an answer does not depend on earlier questions"
        if change <= SAME
        else f"answers depend on what was asked before (by {change:.2g} of the range): an "
        "attacked image is judged with what the defense kept of the clean one"
    )
    return Check(names.STATELESS, change <= SAME, change, sentence)


def _in_range(images: Tensor) -> Check:
    low, high = float(images.min()), float(images.max())
    inside = low >= 0 and high <= 1
    text = f"images lie in [{low:.3g}, {high:.3g}]" + ("" if inside else ", not in [0, 1]")
    return Check(names.IN_RANGE, inside, max(-low, high - 1, 0.0), text)


def relative_change(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference of two answers as a share of the range of logits."""
    span = float(theirs.max() - theirs.min())
    return float((ours - theirs).abs().max()) / max(span, 1e-12)


# --- gradients ------------------------------------------------------------------------------------


def _gradients(what: Probe) -> tuple[Check, ...]:
    """Look at the published gradient of the margin, which does not saturate."""
    defense: Any = what.make()
    gradient = _gradient(defense, what)
    flat = torch.zeros_like(what.few[0]).flatten(1) if gradient is None else gradient.flatten(1)
    useless = ~torch.isfinite(flat).all(1) | (flat == 0).all(1)
    share = float(useless.double().mean())
    sentence = (
        "the published gradient is finite and not zero"
        if not share
        else f"the published gradient is zero or not finite for {100 * share:.0f}% of the images: "
        "attacks that follow it do nothing there"
    )
    alive = Check(names.GRADIENT, share == 0, share, sentence)
    flat = torch.nan_to_num(flat, nan=0.0, posinf=0.0, neginf=0.0)
    return alive, _true_gradient(what, defense, flat), _exact_gradient(what, defense, flat)


def _gradient(forward: Classifier, what: Probe) -> Tensor | None:
    """Return the gradient (b, C, H, W) of the summed margins, or None where there is none."""
    x, y = what.few
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        total = margins(forward(leaf), y).sum()
        if not total.requires_grad:
            return None
        gradient: Tensor | None
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
    return gradient


@torch.no_grad()
def _true_gradient(what: Probe, defense: Classifier, flat: Tensor) -> Check:
    """Take a short step along the gradient, both ways: does the margin rise as promised?"""
    (x, y), length = what.few, flat.norm(dim=1)
    if not bool((length > 0).any()):
        return Check(names.TRUE_GRADIENT, None, None, "there is no gradient to follow")
    size = what.threat.eps * (flat.shape[1] ** 0.5 if what.threat.norm == "Linf" else 1) / 20
    if not size:
        return Check(names.TRUE_GRADIENT, None, None, "eps is zero")
    step = (size * flat / length.clamp_min(1e-12)[:, None]).view_as(x)
    rise = (margins(defense(x + step), y) - margins(defense(x - step), y)).sum() / 2
    kept = float(rise / (size * length.sum()))
    passed = kept >= KEPT
    sentence = (
        f"a short step along the published gradient brings {100 * kept:.0f}% of the rise that it "
        "promises" + ("" if passed else ": it is not the gradient of what is judged")
    )
    return Check(names.TRUE_GRADIENT, passed, kept, sentence)


def _exact_gradient(what: Probe, defense: Any, flat: Tensor) -> Check:
    """Compare the published with the unrolled gradient, where the defense has that."""
    if not (hasattr(defense, "unroll") and hasattr(defense, "predict")):
        return Check(names.EXACT_GRADIENT, None, None, "the defense offers no unrolled gradient")
    last = {"last": what.steps} if what.steps else {}  # dent then needs the memory of one step
    exact = _gradient(lambda x: defense.predict(x, defense.unroll(x, **last)), what)
    other = torch.zeros_like(flat) if exact is None else exact.flatten(1)
    other = torch.nan_to_num(other, nan=0.0, posinf=0.0, neginf=0.0)
    cosine = float(F.cosine_similarity(flat, other, dim=1).mean())
    passed = cosine >= COSINE
    sentence = f"the published gradient has a mean cosine of {cosine:.2f} with the exact one" + (
        "" if passed else ": it is stale; the protocol unrolled follows the exact one"
    )
    return Check(names.EXACT_GRADIENT, passed, cosine, sentence)


def _ascent(what: Probe) -> Check:
    """Compare 20 steps along the published gradient with the best of a few random points."""
    if what.threat.norm not in OWN_NORMS or not what.threat.eps:
        text = f"not made in {what.threat.norm} with eps {what.threat.eps:g}"
        return Check(names.ASCENT, None, None, text)
    (x, y), defense = what.few, what.make()
    loss, highs = make_loss("margin", y), []

    def witness(points: Tensor, logits: Tensor | None) -> None:
        del points
        assert logits is not None
        highs.append(loss(logits))

    with torch.no_grad():
        draws = [what.random_points(x, number) for number in range(1, 1 + DRAWS)]
        chance = float(torch.stack([loss(defense(one)) for one in draws]).amax(0).mean())
    apgd(through(defense, judges=True), loss, x, x, what.threat, STEPS, witness)
    after = {count: float(torch.stack(highs[: count + 1]).amax(0).mean()) for count in (0, 5, 20)}
    least = max(after[0], chance)
    passed = after[STEPS] > least + 1e-6 * max(abs(least), 1.0)
    numbers = (
        f"the mean margin is {after[0]:.3g} at the images, {chance:.3g} at the best of {DRAWS} "
        f"random points, {after[5]:.3g} after 5 and {after[20]:.3g} after {STEPS} steps"
    )
    bad = "; following the gradient is no better than guessing"
    return Check(names.ASCENT, passed, after[STEPS] - least, numbers + ("" if passed else bad))
