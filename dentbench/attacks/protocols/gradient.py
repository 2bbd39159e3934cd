"""Protocols that attack the defense directly; they differ in where their gradient comes from."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dentbench.attacks.apgd import Look, Oracle
from dentbench.attacks.autoattack import AttackResult, run_attack
from dentbench.attacks.base import Classifier
from dentbench.attacks.budget import Ascent, ascents_of, fewer_steps, larger_steps, queries_of
from dentbench.attacks.losses import Loss
from dentbench.attacks.protocols.base import Situation
from dentbench.attacks.protocols.search import Search, differentiate, through
from dentbench.attacks.views import BatchView
from dentbench.errors import SpecError
from dentbench.spec.evaluation import AttackSpec, EvalSpec, derive_seed


def surrogate(situation: Situation) -> AttackResult:
    """Follow the static model's gradient and let the defense judge every iterate.

    Source: the transfer attacks of Croce et al., ICML 2022 (arXiv 2202.13711), judged all along.
    """
    search = Search(situation, "surrogate")
    judges = situation.spec.defense is None  # it is the network itself that is attacked
    for network in situation.followed:
        search.ascend_all(through(network, judges=judges), _ascents(situation, "surrogate"))
    return search.result()


def warm(situation: Situation) -> AttackResult:
    """Follow the published gradient from the best points found so far.

    In a table of attacks, without a cascade, it is our own attack with the published gradient.
    """
    search = Search(situation, "warm")
    oracle = through(search.shown(situation.defense), judges=True)
    search.ascend_all(oracle, _ascents(situation, "warm"))
    return search.result()


def unrolled(situation: Situation) -> AttackResult:
    """Follow the exact gradient of the whole defense, through its adaptation steps.

    With ``last`` in the spec, through the last so many steps only. As far as we know, dent was
    not evaluated in this way before.
    """
    search = Search(situation, "unrolled")
    whole = unrolled_defense(situation.defense, situation.spec)
    search.ascend_all(through(search.shown(whole), judges=True), _ascents(situation, "unrolled"))
    return search.result()


def unrolled_defense(defense: Any, spec: EvalSpec) -> Classifier:
    """Return the defense as a function that has its exact gradient, or that of the last steps."""
    last = spec.protocols.last
    if not _takes_last(defense.unroll):
        if last is not None:
            raise SpecError("the defense's unroll takes no last, so its gradient is not truncated")
        return lambda x: defense.predict(x, defense.unroll(x))
    # Said even where it is all of them: dent then needs the memory of one step only.
    last = last or max(getattr(spec.defense, "steps", 0), 1)
    return lambda x: defense.predict(x, defense.unroll(x, last=last))


def _takes_last(unroll: Any) -> bool:
    own = unroll.args[0] if isinstance(unroll, partial) else unroll  # seen through SeededDefense
    return "last" in inspect.signature(own).parameters


def bpda(situation: Situation) -> AttackResult:
    """Take the defense's logits, and the static model's gradient for theirs.

    Backward, the adaptation and the blur count as the identity: the gradient is the static
    model's at the images that the defense's network is shown, for the loss at the defense's own
    logits; the surrogate's differs in both. Source: Athalye et al. 2018 (arXiv 1802.00420).
    """
    search = Search(situation, "bpda")
    defense: Any = situation.defense
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

    for network in situation.followed:
        shown = search.shown(partial(answer, network=network))
        search.ascend_all(through(shown, judges=True), _ascents(situation, "bpda"))
    return search.result()


def few_steps(situation: Situation) -> AttackResult:
    """Attack the defense with fewer adaptation steps than it defends with: one, and half."""
    search = Search(situation, "few-steps")
    assert situation.with_steps is not None
    for steps in fewer_steps(situation.spec):
        oracle = through(search.shown(situation.with_steps(steps)))
        search.ascend_all(oracle, _ascents(situation, "few-steps"))
    return search.result()


def surrogate_process(situation: Situation) -> AttackResult:
    """Follow the exact gradient of fewer and larger steps; the defense itself judges every iterate.

    Source: Lee and Kim, ICCV 2023 (arXiv 2303.09051), of diffusion; the number of steps is ours.
    """
    search = Search(situation, "surrogate-process")
    assert situation.with_steps is not None
    coarse = situation.with_steps(larger_steps(situation.spec), larger=True)
    spec = replace(situation.spec, protocols=replace(situation.spec.protocols, last=None))
    oracle = through(search.shown(unrolled_defense(coarse, spec)))
    search.ascend_all(oracle, _ascents(situation, "surrogate-process"))
    return search.result()


def trajectory(situation: Situation) -> AttackResult:
    """Follow the mean loss over the networks before every step and after the last.

    One adaptation gives them all; its last network is the defense, which so judges every iterate.
    The adaptations are constants. Source: Croce et al., ICML 2022 (arXiv 2202.13711), whose code
    averages over the defense's own inner iterates.
    """
    search = Search(situation, "trajectory")
    search.ascend_all(trajectory_oracle(search), _ascents(situation, "trajectory"))
    return search.result()


def trajectory_oracle(search: Search) -> Oracle:
    """Return the oracle of the mean loss over a trajectory; its logits are the defense's own."""
    defense: Any = search.situation.defense

    def oracle(points: Tensor, loss: Loss) -> Look:
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
        return Look(mean, gradient / len(values), logits.detach())

    return oracle


def scores(situation: Situation) -> AttackResult:
    """Run Square (arXiv 1912.00049) on the defense, from scratch and without any gradient."""
    spec = situation.spec
    search = Search(replace(situation, starts=()), "scores")
    view = BatchView(
        situation.defense,
        situation.images,
        situation.labels,
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
    attacked = situation.natural & ~situation.settled
    result = run_attack(
        view,
        square,
        attacked,
        situation.classes,
        seed_of=lambda name, chunk: derive_seed(spec.seed, "scores", situation.unit, chunk),
        chunk=spec.batches.size,
    )
    search.see(result.points[search.rows])
    return search.result()


def _ascents(situation: Situation, stage: str) -> tuple[Ascent, ...]:
    return ascents_of(situation.spec, stage, situation.classes)
