"""The search for adversarial points of one unit of work, with the defense as the only judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dentbench.attacks.apgd import GradientFn, LossAndGrad, apgd, ignore, random_start
from dentbench.attacks.attack_events import announce
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import Classifier, ThreatModel, margins, or_wrong
from dentbench.attacks.budget import LOOKS, WITNESSES, Ascent
from dentbench.attacks.losses import Loss, make_loss, ranked_targets
from dentbench.attacks.protocols.base import AttackContext
from dentbench.spec.evaluation import derive_seed


class Witness(NamedTuple):
    """A whole batch of points (n, C, H, W) of the rows, and which of them (n,) are wrong in it."""

    points: Tensor
    wrong: Tensor


class Search:
    """The best points so far for the images of a unit that are still to be broken.

    ``rows`` (n,): the images under attack, those right naturally and not broken by an earlier
    stage. Every point that :meth:`see` is shown is judged by the defense, never by the source of
    the gradient. For a separable defense an image that is wrong once is broken, and leaves ``rows``
    at :meth:`prune`. For a coupled defense all of ``rows`` are shown together, among the others
    (broken images at their adversarial points, naturally wrong images clean), and it keeps the
    whole batch that most are wrong in; of other batches, a few in which further images are wrong
    are its witnesses. ``points``, ``margin`` and ``logits`` hold, for every image
    of the unit, the point of the highest margin and the defense's answer there. Of a defense that
    answers by chance it is the mean of ``LOOKS`` answers, of the points that an ascent ends at:
    among many iterates the luckiest would win, and no image is left alone for one unlucky answer.
    """

    def __init__(self, context: AttackContext, stage: str) -> None:
        self.context = context
        self.stage = stage
        self.coupled = not context.spec.separable
        self.threat = ThreatModel.of(context.spec.attack)
        images = context.images
        self.rows = (context.natural & ~context.settled).nonzero().flatten()
        self.frame = images.clone()
        if context.settled_points is not None:
            settled = context.settled[:, None, None, None]
            self.frame = torch.where(settled, context.settled_points, images)
        self.points = self.frame.clone()
        self.margin = images.new_full((len(images),), -torch.inf)
        self.logits = images.new_zeros(len(images), context.classes)
        self._batch: Tensor | None = None
        self._batch_margin = self.margin[self.rows]
        self._witnesses: list[Witness] = []
        others = () if context.counterpart is None else (context.counterpart,)
        for start in (*(context.starts or (images,)), *others):
            self.see(self.threat.project(start, images)[self.rows])

    @property
    def clean(self) -> Tensor:
        """The clean images (n, C, H, W) of ``rows``."""
        return self.context.images[self.rows]

    @property
    def labels(self) -> Tensor:
        """The labels (n,) of ``rows``."""
        return self.context.labels[self.rows]

    def shown(self, classify: Classifier) -> Classifier:
        """Return ``classify`` as a function of the points of ``rows`` alone.

        A coupled defense is shown the whole unit, and answers for all of it.
        """
        if not self.coupled:
            return classify
        return lambda x: classify(self.frame.index_put((self.rows,), x))[self.rows]

    def whole(self, points: Tensor) -> Tensor:
        """Return the defense's batch: ``points`` of ``rows``, among the others if coupled."""
        return self.frame.index_put((self.rows,), points) if self.coupled else points

    @torch.no_grad()
    def see(self, points: Tensor, logits: Tensor | None = None) -> None:
        """Judge points (n, C, H, W) of ``rows``; ``logits``: the defense's answer, if there."""
        if not len(self.rows):
            return
        if self.context.random:
            shown = self.shown(self.context.defense)
            answers = [or_wrong(shown(points), self.labels) for _ in range(LOOKS)]
            logits = torch.stack(answers).mean(0)
        elif logits is None:
            logits = self.shown(self.context.defense)(points)
        logits = or_wrong(logits, self.labels)
        margin = margins(logits, self.labels).to(self.margin.dtype)
        allowed = self.threat.contains(points, self.clean)
        better = allowed & (margin > self.margin[self.rows])
        chosen = self.rows[better]
        self.points[chosen] = points[better]
        self.margin[chosen] = margin[better]
        self.logits[chosen] = logits[better].to(self.logits.dtype)
        if self.coupled and allowed.all():
            self._see_batch(points, margin)

    def _see_batch(self, points: Tensor, margin: Tensor) -> None:
        wrong, before = (margin > 0).sum(), (self._batch_margin > 0).sum()
        tie = wrong == before and margin.mean() > self._batch_margin.mean()
        other = points, margin
        if self._batch is None or wrong > before or tie:
            if self._batch is not None:
                other = self._batch, self._batch_margin
            self._batch, self._batch_margin = points.clone(), margin
        if not self.context.random:
            self._keep_witness(other[0], other[1] > 0)

    def _keep_witness(self, points: Tensor, wrong: Tensor) -> None:
        """Keep a batch if an image is wrong in it that is wrong in no other batch kept."""
        if not (wrong & ~self._wrong_in(self._witnesses)).any():
            return
        self._witnesses.append(Witness(points.clone(), wrong))
        if len(self._witnesses) > WITNESSES:
            own = [int((item.wrong & ~self._wrong_without(item)).sum()) for item in self._witnesses]
            del self._witnesses[own.index(min(own))]

    def _wrong_without(self, witness: Witness) -> Tensor:
        return self._wrong_in([other for other in self._witnesses if other is not witness])

    def _wrong_in(self, witnesses: list[Witness]) -> Tensor:
        """Return which rows (n,) are wrong in the best batch or in any of these."""
        return torch.stack([self._batch_margin > 0, *(item.wrong for item in witnesses)]).any(0)

    def sparsely(self, every: int) -> Callable[[Tensor, Tensor | None], None]:
        """Return a callback that shows the defense every ``every``-th iterate it is given.

        It also shows every iterate whose answer is there already.
        """
        count = 0

        def on_iterate(points: Tensor, logits: Tensor | None) -> None:
            nonlocal count
            if logits is not None or count % every == 0:
                self.see(points, logits)
            count += 1

        return on_iterate

    def ascend(
        self, gradient_fn: GradientFn, ascent: Ascent, number: int, *, blind: bool = False
    ) -> Tensor:
        """Run an ascent, the ``number``-th of the stage; return its points (n, C, H, W).

        They are those of the highest loss. Every iterate is judged, unless
        the ascent is ``blind``.
        """
        loss, start = self.loss(ascent), self.start(ascent, number)
        if self.context.random and not blind:
            result = self.ascend(gradient_fn, ascent, number, blind=True)
            self.see(result)
            return result
        on_iterate = ignore if blind else self.sparsely(self.context.spec.protocols.every)
        return apgd(
            gradient_fn, loss, start, self.clean, self.threat, ascent.iterations, on_iterate
        )

    def ascend_all(self, gradient_fn: GradientFn, ascents: tuple[Ascent, ...]) -> None:
        """Run ascents in turn, each on the images that earlier ascents left."""
        for number, ascent in enumerate(ascents):
            if len(self.rows):
                left = int((self.margin[self.rows] <= 0).sum())
                announce(f"run {number + 1} of {len(ascents)}", left, len(self.margin))
                self.ascend(gradient_fn, ascent, number)
                self.prune()

    def start(self, ascent: Ascent, number: int) -> Tensor:
        """Return the points (n, C, H, W) that an ascent starts from.

        Random points are drawn for the whole unit, so that they do not depend on the rows left.
        """
        if ascent.start == "best":
            return self.points[self.rows]
        context = self.context
        seed = derive_seed(context.spec.seed, self.stage, context.unit, number)
        generator = torch.Generator().manual_seed(seed)
        return random_start(context.images, self.threat, generator)[self.rows]

    def loss(self, ascent: Ascent) -> Loss:
        """Return an ascent's loss; targets are ranked by the defense at the best points."""
        targets = None
        if ascent.rank is not None:
            targets = ranked_targets(self.logits[self.rows], self.labels, ascent.rank)
        return make_loss(ascent.loss, self.labels, targets)

    def prune(self) -> None:
        """Leave broken images alone from now on, where that changes nothing for the others."""
        if not self.coupled and not self.context.random:
            self.rows = self.rows[self.margin[self.rows] <= 0]

    def result(self) -> AttackResult:
        """Return the result: for a coupled defense the batch in which most images are wrong.

        Its flags are of every image's own worst case, so they count the witnesses too.
        """
        context = self.context
        wrong = self.margin > 0
        witnesses: tuple[Tensor, ...] = ()
        if self.coupled and len(self.rows):
            self.see(self.points[self.rows])  # the best points of all, together
            assert self._batch is not None
            self.points = self.frame.index_put((self.rows,), self._batch)
            wrong_anywhere = self._wrong_in(self._witnesses)
            wrong = torch.zeros_like(wrong).index_put((self.rows,), wrong_anywhere)
            witnesses = self._further_batches()
        robust = context.natural & ~context.settled & ~wrong
        settled_by = context.settled_by or ("",) * len(wrong)
        broken_by = tuple(
            "natural" if not right else settled or ("" if survives else self.stage)
            for right, settled, survives in zip(
                context.natural.tolist(), settled_by, robust.tolist(), strict=True
            )
        )
        return AttackResult(self.points, robust, broken_by, witnesses=witnesses)

    def _further_batches(self) -> tuple[Tensor, ...]:
        """Return the witnesses, each a batch (B, C, H, W), in which further images are wrong."""
        kept = [item for item in self._witnesses if (item.wrong & (self._batch_margin <= 0)).any()]
        return tuple(self.frame.index_put((self.rows,), item.points) for item in kept)


def through(forward: Classifier, *, judges: bool = False) -> GradientFn:
    """Return the gradient function of ``forward`` itself, (n, C, H, W) -> (n, classes).

    ``judges``: whether its logits are the defense's own answers. Where it has no gradient, the
    gradient is zero.
    """

    def gradient_fn(points: Tensor, loss: Loss) -> LossAndGrad:
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            logits = forward(leaf)
            values = loss(logits)
        gradient = differentiate(values, leaf)
        return LossAndGrad(values.detach(), gradient, logits.detach() if judges else None)

    return gradient_fn


def differentiate(values: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradient of the sum of ``values`` with respect to ``leaf``; zero for none."""
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
    if gradient is None:
        return torch.zeros_like(leaf)
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
