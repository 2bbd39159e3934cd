"""Protocols that attack the defense directly; they differ in where their gradient comes from."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dentbench.attacks.apgd import GradientFn, LossAndGrad
from dentbench.attacks.autoattack import AttackResult, run_attack
from dentbench.attacks.base import Classifier
from dentbench.attacks.budget import Ascent, ascents_of, fewer_steps, larger_steps, queries_of
from dentbench.attacks.losses import Loss
from dentbench.attacks.protocols.base import AttackContext
from dentbench.attacks.protocols.search import Search, differentiate, through
from dentbench.attacks.views import BatchView
from dentbench.errors import SpecError
from dentbench.spec.evaluation import AttackSpec, EvalSpec, derive_seed


def surrogate(context: AttackContext) -> AttackResult:
    """Follow the static model's gradient and let the defense judge every iterate.

    Source: the transfer attacks of Croce et al., ICML 2022 (arXiv 2202.13711), judged all along.
    """
    search = Search(context, "surrogate")
    judges = context.spec.defense is None  # it is the network itself that is attacked
    for network in context.followed:
        search.ascend_all(through(network, judges=judges), _ascents(context, "surrogate"))
    return search.result()


def warm(context: AttackContext) -> AttackResult:
    """Follow the published gradient from the best points so far.

    In a table of attacks, without a cascade, it is our own attack with the published gradient.
    """
    search = Search(context, "warm")
    gradient_fn = through(search.shown(context.defense), judges=True)
    search.ascend_all(gradient_fn, _ascents(context, "warm"))
    return search.result()


def unrolled(context: AttackContext) -> AttackResult:
    """Follow the exact gradient of the whole defense, through its adaptation steps.

    With ``last`` in the spec, through the last so many steps only. As far as we know, dent was
    not evaluated in this way before.
    """
    search = Search(context, "unrolled")
    whole = unrolled_defense(context.defense, context.spec)
    search.ascend_all(through(search.shown(whole), judges=True), _ascents(context, "unrolled"))
    return search.result()


def unrolled_defense(defense: Any, spec: EvalSpec) -> Classifier:
    """Return the defense as a function that has its exact gradient, or that of the last steps."""
    last = spec.protocols.last
    if not _takes_last(defense.unroll):
        if last is not None:
            raise SpecError("the defense's unroll takes no last, so its gradient is not truncated")
        return lambda x: defense.predict(x, defense.unroll(x))
    # Passed even where it is all of them: dent then needs the memory of one step only.
    last = last or max(getattr(spec.defense, "steps", 0), 1)
    return lambda x: defense.predict(x, defense.unroll(x, last=last))


def _takes_last(unroll: Any) -> bool:
    own = unroll.args[0] if isinstance(unroll, partial) else unroll  # seen through SeededDefense
    return "last" in inspect.signature(own).parameters


def bpda(context: AttackContext) -> AttackResult:
    """Take the defense's logits, and the static model's gradient in place of theirs.

    Backward, the adaptation and the blur count as the identity: the gradient is the static
    model's at the images that the defense's network is shown, for the loss at the defense's own
    logits; the surrogate's differs in both. Source: Athalye et al. 2018 (arXiv 1802.00420).
    """
    search = Search(context, "bpda")
    defense: Any = context.defense
    prepares = hasattr(defense, "preprocess") and hasattr(defense, "adapt")

    def answer(x: Tensor, network: Any) -> Tensor:
        with torch.no_grad():
            if not prepares:
                logits, seen = defense(x), x
            else:
                adaptation = defense.adapt(x)
                logits = defense.predict(x, adaptation)
                seen = defense.preprocess(x, adaptation)
        static: Tensor = network(x + (seen - x).detach())
        stand_in: Tensor = static + (logits - static).detach()
        return stand_in

    for network in context.followed:
        shown = search.shown(partial(answer, network=network))
        search.ascend_all(through(shown, judges=True), _ascents(context, "bpda"))
    return search.result()


def few_steps(context: AttackContext) -> AttackResult:
    """Attack the defense with fewer adaptation steps than it defends with: 1, and half."""
    search = Search(context, "few-steps")
    assert context.with_steps is not None
    for steps in fewer_steps(context.spec):
        gradient_fn = through(search.shown(context.with_steps(steps)))
        search.ascend_all(gradient_fn, _ascents(context, "few-steps"))
    return search.result()


def surrogate_process(context: AttackContext) -> AttackResult:
    """Follow the exact gradient of fewer and larger steps; the defense itself judges every iterate.

    Source: Lee and Kim, ICCV 2023 (arXiv 2303.09051), of diffusion; the number of steps is ours.
    """
    search = Search(context, "surrogate-process")
    assert context.with_steps is not None
    coarse = context.with_steps(larger_steps(context.spec), larger=True)
    spec = replace(context.spec, protocols=replace(context.spec.protocols, last=None))
    gradient_fn = through(search.shown(unrolled_defense(coarse, spec)))
    search.ascend_all(gradient_fn, _ascents(context, "surrogate-process"))
    return search.result()


def trajectory(context: AttackContext) -> AttackResult:
    """Follow the mean loss over the networks before every step and after the last.

    One adaptation gives them all; its last network is the defense, which so judges every iterate.
    The adaptations are constants. Source: Croce et al., ICML 2022 (arXiv 2202.13711), whose code
    averages over the defense's own inner iterates.
    """
    search = Search(context, "trajectory")
    search.ascend_all(trajectory_gradient_fn(search), _ascents(context, "trajectory"))
    return search.result()


def trajectory_gradient_fn(search: Search) -> GradientFn:
    """Return the gradient function of a trajectory's mean loss; logits are the defense's own."""
    defense: Any = search.context.defense

    def gradient_fn(points: Tensor, loss: Loss) -> LossAndGrad:
        stages = defense.trajectory(search.whole(points.detach()))
        leaf = points.detach().requires_grad_()
        gradient, values = torch.zeros_like(leaf), []
        for adaptation in stages:  # one graph at a time
            network = search.shown(partial(defense.predict, adaptation=adaptation))
            with torch.enable_grad():
                logits = network(leaf)
                value = loss(logits)
            gradient += differentiate(value, leaf)
            values.append(value.detach())
        mean = torch.stack(values).mean(0)
        return LossAndGrad(mean, gradient / len(values), logits.detach())

    return gradient_fn


def scores(context: AttackContext) -> AttackResult:
    """Run Square (arXiv 1912.00049) on the defense, from scratch and without any gradient."""
    spec = context.spec
    search = Search(replace(context, starts=()), "scores")
    view = BatchView(
        context.defense,
        context.images,
        context.labels,
        search.threat,
        whole=search.coupled,
    )
    view.points = search.frame.clone()
    square = AttackSpec(
        name="square",
        norm=spec.attack.norm,
        eps=spec.attack.eps,
        queries=queries_of(spec),
    )
    attacked = context.natural & ~context.settled
    result = run_attack(
        view,
        square,
        attacked,
        context.classes,
        seed_of=lambda name, chunk: derive_seed(spec.seed, "scores", context.unit, chunk),
        chunk=spec.batches.size,
    )
    search.see(result.points[search.rows])
    return search.result()


def _ascents(context: AttackContext, stage: str) -> tuple[Ascent, ...]:
    return ascents_of(context.spec, stage, context.classes)
