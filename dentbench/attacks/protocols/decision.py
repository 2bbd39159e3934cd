"""Attacks on a defense that shows its labels alone: RayS in Linf, HopSkipJump in L2.

Both look for the ray from the clean image on which the defense is wrong soonest. Sources: Chen and
Gu 2020 (RayS, arXiv 2006.12792), Chen et al. 2020 (HopSkipJump, arXiv 1904.02144). Ours: a ray is
searched no nearer than eps, where the image is broken; every image is at its own query, so that
none waits for another; the first rays are those to the points of earlier stages; signs that no
flip improves are drawn anew; and HopSkipJump's step is judged along its ray.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from dentbench.attacks.attack_events import announce
from dentbench.attacks.autoattack import AttackResult
from dentbench.attacks.base import ThreatModel, or_wrong
from dentbench.attacks.budget import LOOK_EVERY, queries_of
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.search import Search
from dentbench.spec.evaluation import derive_seed

TEST, EDGE, BISECT, PROBE = range(4)
"""The next query of an image: its ray at the least radius so far, at eps, between the two; or a
point beside the boundary, whose label shows where the boundary rises."""

PROBES: Final = 10
"""The probes of HopSkipJump's first normal; the paper's are 100, of 1,000 and more queries."""

WIDTH: Final = 0.3
"""How far from the boundary a probe is, as a share of the radius."""

HALVINGS: Final = 3
"""How often a step of HopSkipJump is halved at most."""


def decision(context: AttackContext) -> AttackResult:
    """Attack by the defense's labels alone: neither a gradient nor a score is looked at.

    A coupled defense is asked about the whole unit, every image at its own query. Of a random
    defense the rays take single answers, and the best of them are looked at now and then.
    """
    search = Search(replace(context, starts=()), "decision")
    kind = RayS if context.spec.attack.norm == "Linf" else HopSkipJump
    rays = kind(context, search.rows)
    queries = queries_of(context.spec)
    for number in range(queries):
        if not len(search.rows):
            break
        if number % LOOK_EVERY == 0:
            left = int((search.margin[search.rows] <= 0).sum())
            announce(f"query {number + 1} of {queries}", left, len(search.margin))
            if context.random:
                search.see(rays.best())
        rays.keep(search.rows)
        points = rays.ask()
        with torch.no_grad():
            answers = search.shown(context.defense)(points)
            labels = or_wrong(answers, search.labels).argmax(1)
        if not context.random:
            search.see(points, torch.eye(context.classes).to(points)[labels])
        rays.answer(labels != search.labels)
        search.prune()
    if context.random:
        search.see(rays.best())
    return search.result()


class Rays:
    """For each image a ray, the least radius at which the defense is wrong on it, and a search.

    ``radius`` (n,): in the norm of the threat model, before clipping to [0, 1]; ``direction``
    (n, C, H, W) of length 1. A subclass proposes the rays to try.
    """

    def __init__(self, context: AttackContext, rows: Tensor) -> None:
        self.context = context
        self.threat = ThreatModel.of(context.spec.attack)
        self.rows = rows
        seed = derive_seed(context.spec.seed, "decision", context.unit)
        self.generator = torch.Generator().manual_seed(seed)
        self.clean = context.images[rows]
        self.first = [self._unit(ray[rows]) for ray in self.first_rays()]
        self.direction = self.trial = self.first[0]
        self.far = 1.0 if self.threat.norm == "Linf" else math.sqrt(context.images[0].numel())
        self.radius = self.clean.new_full((len(rows),), self.far)
        self.low, self.high = torch.zeros_like(self.radius), self.radius
        self.phase = torch.full_like(rows, TEST)
        self.tried = torch.zeros_like(rows)  # how many of the first rays of an image were tried

    def first_rays(self) -> list[Tensor]:
        """Return the rays (B, C, H, W), of any length, that are tried before all others."""
        raise NotImplementedError

    def propose(self, done: Tensor, better: Tensor) -> None:
        """Set ``trial`` and ``phase`` of the images ``done`` (n,); ``better``: the last ray was."""
        raise NotImplementedError

    def state(self) -> tuple[str, ...]:
        """Return the names of the tensors with a row for each image."""
        return ("rows", "clean", "direction", "trial", "radius", "low", "high", "phase", "tried")

    def keep(self, rows: Tensor) -> None:
        """Go on with the images of ``rows`` alone."""
        if len(rows) == len(self.rows):
            return
        kept = torch.isin(self.rows, rows)
        for name in self.state():
            setattr(self, name, getattr(self, name)[kept])
        self.first = [ray[kept] for ray in self.first]

    def ask(self) -> Tensor:
        """Return the points (n, C, H, W) of the next query."""
        middle = (self.low + self.high) / 2
        edge = torch.full_like(middle, self.threat.eps)
        at = torch.where(self.phase == BISECT, middle, self.radius)
        self.at = torch.where(self.phase == EDGE, edge, at)
        broken = self.radius <= self.threat.eps  # a mate of others, it stays where it is
        ray = torch.where(_wide(broken), self.direction, self.trial)
        return (self.clean + _wide(torch.where(broken, self.radius, self.at)) * ray).clamp(0, 1)

    def best(self) -> Tensor:
        """Return the points (n, C, H, W) at the threat model's edge along the best rays so far."""
        edge = torch.full_like(self.radius, self.threat.eps)
        return (self.clean + _wide(edge) * self.direction).clamp(0, 1)

    def answer(self, wrong: Tensor) -> None:
        """Take note of which points (n,) of the last query the defense was wrong at."""
        tested, edge = self.phase == TEST, self.phase == EDGE
        searched = tested | edge | (self.phase == BISECT)
        self.high = torch.where(searched & wrong, self.at, self.high)
        self.low = torch.where(searched & ~wrong, self.at, self.low)
        narrow = self.high - self.low <= self.tolerance()
        done = (tested & ~wrong) | (edge & wrong) | (searched & ~tested & narrow)
        better = done & (self.high < self.radius) & ~tested
        self.phase = torch.where(edge, BISECT, torch.where(tested & wrong, EDGE, self.phase))
        self.radius = torch.where(better, self.high, self.radius)
        self.direction = torch.where(_wide(better), self.trial, self.direction)
        self.propose(done & (self.radius > self.threat.eps), better)

    def tolerance(self) -> Tensor | float:
        """Return how near to the boundary a search ends."""
        return self.threat.eps / 100

    def _unit(self, ray: Tensor) -> Tensor:
        if self.threat.norm == "Linf":
            return torch.where(ray < 0, -torch.ones_like(ray), torch.ones_like(ray))
        length = _wide(ray.flatten(1).norm(dim=1))
        return ray / length.clamp_min(1e-12)

    def _start(self, done: Tensor, trial: Tensor) -> None:
        """Test a new ray (n, C, H, W) of the images ``done`` (n,)."""
        self.trial = torch.where(_wide(done), trial, self.trial)
        self.high = torch.where(done, self.radius, self.high)
        self.phase = torch.where(done, torch.full_like(self.phase, TEST), self.phase)

    def _next_first(self, done: Tensor) -> Tensor:
        """Start the next of the first rays; return where (n,) none is left."""
        self.tried = self.tried + done
        for number, ray in enumerate(self.first):
            mine = done & (self.tried == number)
            if number and bool(mine.any()):
                self._start(mine, ray)
        return done & (self.tried >= len(self.first))


class RayS(Rays):
    """Flips the signs of ever smaller blocks of pixels, and keeps flips that come nearer."""

    def __init__(self, context: AttackContext, rows: Tensor) -> None:
        super().__init__(context, rows)
        self.block = torch.zeros_like(rows)
        self.blocks = torch.ones_like(rows)
        self.idle = torch.zeros_like(rows)  # flips since the last that came nearer

    def first_rays(self) -> list[Tensor]:
        """Return the signs of the points so far, and the white corner, as in the paper."""
        images = self.context.images
        return [*(start - images for start in self.context.starts), torch.ones_like(images)]

    def state(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for every image."""
        return (*super().state(), "block", "blocks", "idle")

    def propose(self, done: Tensor, better: Tensor) -> None:
        """Flip the next block of the direction, or begin anew where all are idle."""
        pixels = self.clean[0].numel()
        self.idle = torch.where(better, 0, self.idle + done)
        self._leave(done & (self.idle > 2 * pixels) & (self.blocks >= pixels))
        flips = self._next_first(done)
        size = -(-pixels // self.blocks)
        begin = self.block * size
        place = torch.arange(pixels, device=begin.device)
        inside = (place >= begin[:, None]) & (place < (begin + size)[:, None])
        flipped = torch.where(inside.view_as(self.direction), -self.direction, self.direction)
        self._start(flips, flipped)
        last = begin + size >= pixels
        self.block = torch.where(flips, torch.where(last, 0, self.block + 1), self.block)
        halved = flips & last & (size > 1)
        self.blocks = torch.where(halved, 2 * self.blocks, self.blocks)

    def _leave(self, stuck: Tensor) -> None:
        """Start again, from random signs, with the images ``stuck`` (n,) that no flip helps."""
        if bool(stuck.any()):
            images = self.context.images
            draw = torch.randn(images.shape, generator=self.generator).to(images)[self.rows]
            self.direction = torch.where(_wide(stuck), self._unit(draw), self.direction)
            self.radius = torch.where(stuck, self.far, self.radius)
            self.block, self.idle = (torch.where(stuck, 0, x) for x in (self.block, self.idle))
            self.blocks = torch.where(stuck, 1, self.blocks)


class HopSkipJump(Rays):
    """Steps along the boundary's normal, which the labels of points around it tell."""

    def __init__(self, context: AttackContext, rows: Tensor) -> None:
        super().__init__(context, rows)
        self.asked = torch.zeros_like(rows)  # probes of the present normal
        self.rounds = torch.zeros_like(rows)  # normals so far
        self.halvings = torch.zeros_like(rows)  # of the present step
        self.side = torch.zeros_like(self.radius)  # sum of the probes' sides, 1 wrong and -1 right
        self.noise = torch.zeros_like(self.clean)
        self.plain = torch.zeros_like(self.clean)  # sum of the probes
        self.sided = torch.zeros_like(self.clean)  # sum of the probes, each times its side
        self.normal = torch.zeros_like(self.clean)

    def first_rays(self) -> list[Tensor]:
        """Return rays to the points so far, to the nearest other label, and random rays."""
        context = self.context
        images, labels = context.images, context.labels
        pool, pool_labels = images, labels
        if context.others is not None and len(context.others):
            assert context.other_labels is not None
            pool = torch.cat([pool, context.others])
            pool_labels = torch.cat([pool_labels, context.other_labels])
        away = torch.cdist(images.flatten(1), pool.flatten(1))
        away = torch.where(labels[:, None] == pool_labels, torch.inf, away)
        nearest = pool[away.argmin(1)] - images
        random = torch.randn(images.shape, generator=self.generator).to(images)
        return [*(start - images for start in context.starts), nearest, random]

    def state(self) -> tuple[str, ...]:
        """Return the names of the arrays kept for every image."""
        own = ("asked", "rounds", "halvings", "side", "noise", "plain", "sided", "normal")
        return (*super().state(), *own)

    def tolerance(self) -> Tensor:
        """Return how near to the boundary (n,) a search ends."""
        return self.radius / (20.0 * math.sqrt(self.context.images[0].numel()))

    def ask(self) -> Tensor:
        """Return the points to ask about next: probes around those whose normal is sought."""
        points = super().ask()
        probing = self.phase == PROBE
        images = self.context.images
        draw = torch.randn(images.shape, generator=self.generator).to(images)[self.rows]
        self.noise = self._unit(draw)
        there = self.clean + _wide(self.radius) * (self.direction + WIDTH * self.noise)
        return torch.where(_wide(probing), there.clamp(0, 1), points)

    def answer(self, wrong: Tensor) -> None:
        """Take the answers (n,) of the points asked about."""
        probing = self.phase == PROBE
        side = torch.where(probing, 2.0 * wrong - 1, 0.0)
        self.side = self.side + side
        self.plain = self.plain + self.noise * _wide(probing)
        self.sided = self.sided + self.noise * _wide(side)
        self.asked = self.asked + probing
        super().answer(wrong)
        probed = probing & (self.asked >= self._probes())
        if bool(probed.any()):
            self._follow_normals(probed)

    def _probes(self) -> Tensor:
        """Return how many probes (n,) a normal takes: more of them the nearer the end is."""
        return (PROBES * (self.rounds + 1).to(self.radius).sqrt()).round()

    def _follow_normals(self, probed: Tensor) -> None:
        """Set the normals of the images ``probed`` (n,), and step along them."""
        mean = self.side / self.asked.clamp_min(1)
        normal = self.sided - torch.where(mean.abs() < 1, mean, 0)[:, None, None, None] * self.plain
        self.normal = torch.where(_wide(probed), self._unit(normal), self.normal)
        self.rounds, self.halvings = self.rounds + probed, torch.where(probed, 0, self.halvings)
        self._step(probed)

    def _step(self, rows: Tensor) -> None:
        length = 1 / (self.rounds.clamp_min(1).to(self.radius).sqrt() * 2.0**self.halvings)
        self._start(rows, self._unit(self.direction + _wide(length) * self.normal))

    def propose(self, done: Tensor, better: Tensor) -> None:
        """Step along the normal, by half as much where the last step came no nearer."""
        done = self._next_first(done)
        # Of a step that does not come nearer, half is tried, and half of that.
        again = done & ~better & (self.rounds > 0) & (self.halvings < HALVINGS)
        self.halvings = self.halvings + again
        self._step(again)
        probe = done & ~again
        self.phase = torch.where(probe, PROBE, self.phase)
        for name in ("asked", "side", "plain", "sided"):
            value = getattr(self, name)
            shape = probe if value.ndim == 1 else _wide(probe)
            setattr(self, name, torch.where(shape, torch.zeros_like(value), value))


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
