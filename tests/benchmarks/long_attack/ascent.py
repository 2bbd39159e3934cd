"""The attack itself: restarts of gradient ascent on one declared batch."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dentbench.adapt.dent import Dent
from dentbench.attacks.counting import CallCounter
from dentbench.compute.answer_graphs import CapturedAnswer
from dentbench.compute.cuda_graphs import Captured
from dentbench.zoo.models import load_model
from tests.benchmarks.long_attack.cases import BATCH, Case

MOMENTUM: Final = 0.9
EVERY: Final = 10
"""At every so-many-th step along the static network dent is asked."""


@dataclass(kw_only=True)
class Target:
    """One declared batch: the defense, the images (B, C, H, W), and which are to be broken.

    ``dent``: what answers for a batch, with ``predict`` and ``unroll`` for restarts through its
    steps; ``network``: the static model. ``right`` (B,): in the worst case of the evaluation;
    ``stored`` (protocols, B, C, H, W): its final points.
    """

    dent: Any
    network: Any
    images: Tensor
    labels: Tensor
    right: Tensor
    stored: Tensor
    eps: float
    separable: bool
    steps: int

    @classmethod
    def of(cls, case: Case, arrays: dict[str, Any], batch: slice, device: str) -> Target:
        """Return a batch of a case, from the file of ``prepare``."""
        spec = case.defense
        network = load_model(case.model).network.to(device).eval()
        size = BATCH if spec.separable else None
        dent = Dent(network, spec, batch_size=size, **_recorded(device)).to(device)
        return cls(
            dent=dent,
            network=network,
            images=torch.from_numpy(arrays["images"][batch]).to(device),
            labels=torch.from_numpy(arrays["labels"][batch]).to(device),
            right=torch.from_numpy(arrays["right"][batch]).to(device),
            stored=torch.from_numpy(arrays["points"][:, batch]).to(device),
            eps=float(case.eps),
            separable=spec.separable,
            steps=max(spec.steps, 1),
        )

    def project(self, x: Tensor) -> Tensor:
        """Return points of the Linf ball and the box."""
        inside = torch.minimum(torch.maximum(x, self.images - self.eps), self.images + self.eps)
        return inside.clamp(0, 1)

    @torch.no_grad()
    def judge(self, x: Tensor) -> Tensor:
        """Return the margin (B,) of dent, asked afresh about the whole batch; positive is wrong."""
        return margin(self.dent(self.project(x)), self.labels)

    @cached_property
    def natural(self) -> Tensor:
        """Whether dent is right at each image (B,), unperturbed."""
        return self.judge(self.images) <= 0

    def together(self) -> int:
        """Return the images right with all at the stored points that are worst for the batch."""
        return min(int((self.natural & (self.judge(item) <= 0)).sum()) for item in self.stored)

    @torch.no_grad()
    def runner_up(self, rank: int) -> Tensor | None:
        """Return the class (B,) that is ``rank``-th behind the best wrong one at the images."""
        logits = self.dent(self.images)
        if not 0 < rank < logits.shape[1] - 1:
            return None
        own = F.one_hot(self.labels, logits.shape[1]).bool()
        return logits.masked_fill(own, -torch.inf).argsort(1, descending=True)[:, rank]

    def logits(self, x: Tensor, gradient: str) -> Tensor:
        """Return logits with the gradient asked for: through all of dent's steps, the last forward
        only, or the static network."""
        if gradient == "static":
            return self.network(x)
        if gradient == "unrolled":
            return self._unrolled(x)
        return self.dent(x)

    @cached_property
    def _unrolled(self) -> Any:
        """Maps images (B, C, H, W) to logits with a gradient through every step of dent."""
        if self.images.is_cuda:  # recorded whole: its launches take most of the time
            return CapturedAnswer(
                lambda x: self.dent.predict(x, self.dent.unroll(x)), self.dent, CallCounter()
            )
        return lambda x: self.dent.predict(x, self.dent.unroll(x, last=self.steps))

    def starts(self) -> list[Tensor]:
        """Return the best stored points of every image together, then those of each protocol."""
        values = torch.stack([self.judge(item) for item in self.stored])
        best = values.argmax(0)
        together = self.stored[best, torch.arange(len(best), device=best.device)]
        return [together, *self.stored]


def _recorded(device: str) -> dict[str, Any]:
    """Return what records dent's work as CUDA graphs (the same bits), on a GPU."""
    if not device.startswith("cuda"):
        return {}
    counter = CallCounter()
    return {
        "recorded": partial(Captured, counter=counter),
        "answered": partial(CapturedAnswer, counter=counter),
    }


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the best wrong logit minus the right logit (B,)."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(1) - logits[own]


@dataclass(frozen=True, kw_only=True)
class Restart:
    """One of the restarts: where it starts, what it raises and along which gradient."""

    number: int

    @property
    def loss(self) -> str:
        """The margin or the cross-entropy, in turn."""
        return ("margin", "ce")[self.number // 2 % 2]

    @property
    def gradient(self) -> str:
        """Through every step, or the published gradient, in turn."""
        return ("unrolled", "published")[self.number // 4 % 2]

    @property
    def rank(self) -> int:
        """The wrong class that the margin is taken over: 0 for the best one at any time, n for
        the one that is n-th behind it at the start."""
        return self.number // 8

    @property
    def warm(self) -> bool:
        """Whether it starts from stored points, as every second one does."""
        return self.number % 2 == 0

    def start(self, target: Target, starts: list[Tensor], seed: int) -> Tensor:
        """Return stored points, or random ones of the ball."""
        if self.warm:
            return starts[self.number // 2 % len(starts)]
        generator = torch.Generator().manual_seed(1000 * seed + self.number)
        noise = 2 * torch.rand(target.images.shape, generator=generator) - 1
        return target.project(target.images + target.eps * noise.to(target.images))


@dataclass
class State:
    """How far a restart is on one batch: step, points, momentum, and images broken.

    ``together``: of coupled images the fewest that were right in one batch of points.
    """

    step: int
    points: Tensor
    velocity: Tensor
    broken: Tensor
    seconds: float
    together: int

    def save(self, path: Path) -> None:
        """Write it in one atomic step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            name: value.cpu().numpy() if isinstance(value, Tensor) else np.array(value)
            for name, value in vars(self).items()
        }
        with path.with_suffix(".part").open("wb") as file:
            np.savez_compressed(file, **arrays)
        path.with_suffix(".part").replace(path)

    def at_the_end(self) -> State:
        """Return it without what only going on needs, so that its file is small."""
        broken = self.broken[:, None, None, None]
        return replace(self, points=self.points * broken, velocity=self.velocity[:0])

    @classmethod
    def load(cls, path: Path, device: torch.device) -> State:
        """Return what :meth:`save` wrote."""
        with np.load(path) as result:
            return cls(
                step=int(result["step"]),
                points=torch.from_numpy(result["points"]).to(device),
                velocity=torch.from_numpy(result["velocity"]).to(device),
                broken=torch.from_numpy(result["broken"]).to(device),
                seconds=float(result["seconds"]),
                together=int(result["together"]),
            )


def ascend(target: Target, restart: Restart, state: State, steps: int, until: float) -> None:
    """Take the steps that are left, and stop early when the time is up or nothing is left."""
    before = 0 if restart.warm else steps // 4
    other = target.runner_up(restart.rank)
    while state.step < steps and time.monotonic() < until:
        begun = time.monotonic()
        aims = target.right & ~state.broken
        if not aims.any():
            state.step = steps
            return
        # A separable dent answers the images that are left as it does in company.
        rows = aims.nonzero().flatten() if target.separable else torch.arange(len(aims))
        leaf = state.points[rows].detach().requires_grad_()
        labels, aimed = target.labels[rows], aims[rows]
        static = state.step < before
        with torch.enable_grad():
            logits = target.logits(leaf, "static" if static else restart.gradient)
            values = margin(logits, labels)
            loss = values
            if restart.loss == "ce":
                loss = F.cross_entropy(logits, labels, reduction="none")
            elif other is not None:
                towards = torch.stack([other[rows], labels], 1)
                loss = logits.gather(1, towards) @ logits.new_tensor([1.0, -1.0])
            (gradient,) = torch.autograd.grad(loss[aimed].sum(), leaf)
        if not target.separable and not static:
            right = int((target.natural & (values.detach() <= 0)).sum())
            state.together = min(state.together, right)
        wrong = (values.detach() > 0) & aimed
        if wrong.any() and not (static and state.step % EVERY):
            state.broken |= (target.judge(state.points) > 0) & target.right
        scale = gradient.abs().flatten(1).mean(1).clamp_min(1e-30)[:, None, None, None]
        velocity = MOMENTUM * state.velocity[rows] + gradient / scale
        size = target.eps / 4 * (1 + np.cos(np.pi * state.step / steps))
        moved = state.points.clone()
        moved[rows] = leaf.detach() + size * velocity.sign()
        state.velocity[rows] = velocity
        state.points = target.project(moved)
        state.step += 1
        state.seconds += time.monotonic() - begun
    state.broken |= (target.judge(state.points) > 0) & target.right
