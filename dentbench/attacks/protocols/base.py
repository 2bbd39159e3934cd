"""Protocols: the ways in which a defense is attacked; each is listed in ``catalogue.py``.

Each works on one unit of work (a declared batch) and hands back points; the points are projected,
clipped and judged afresh by the caller, on the whole unit, with the defense itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dentbench.attacks.autoattack import AttackResult, run_attack
from dentbench.attacks.base import Classifier, ThreatModel
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.protocol_cards import claim_name, is_given
from dentbench.attacks.views import BatchView
from dentbench.spec.evaluation import EvalSpec, derive_seed


@dataclass(frozen=True, kw_only=True)
class AttackContext:
    """The context of an attack on one unit of work.

    ``images`` (B, C, H, W) in [0, 1], ``labels`` (B,), ``natural`` (B,): which are right without an
    attack. ``defense``: the model that is judged; where it offers ``adapt``, ``predict`` and
    ``unroll``, they are methods of it. ``static_points``: the static model's adversarial points (B,
    C, H, W), there when the protocol asks for them. ``claimed_points``: those of a file (B, C, H,
    W), where they are judged.

    ``network``: the static model. ``counterpart``: its final points (B, C, H, W) under the same
    protocol, where it has that and there is a cascade: they count for the defense too. ``starts``:
    the final points (B, C, H, W) of each earlier stage of a cascade. ``settled_by`` (B names): the
    earlier stage that broke an image, or "", and ``settled_points`` (B, C, H, W) its points there.
    ``others`` (M, C, H, W) and ``other_labels`` (M,): natural images of other units. ``random``:
    whether the defense answers by chance, so that a single answer means little. ``with_steps``
    returns the defense with so many adaptation steps, with ``larger`` each so much longer that all
    go as far as before; None when it has no fewer. ``stream``: of a defense that carries state from
    batch to batch, its state a few batches before, and the natural images of these. ``surrogate``:
    a network that the defense itself declares near to it, to be attacked in its place.
    """

    spec: EvalSpec
    unit: int
    images: Tensor
    labels: Tensor
    natural: Tensor
    classes: int
    defense: Classifier
    static_points: Tensor | None = None
    claimed_points: Tensor | None = None
    network: Classifier | None = None
    counterpart: Tensor | None = None
    starts: tuple[Tensor, ...] = ()
    settled_by: tuple[str, ...] = ()
    settled_points: Tensor | None = None
    others: Tensor | None = None
    other_labels: Tensor | None = None
    with_steps: Callable[..., Classifier] | None = None
    random: bool = False
    stream: tuple[Any, tuple[Tensor, ...]] | None = None
    surrogate: Classifier | None = None

    @property
    def followed(self) -> tuple[Classifier, ...]:
        """The networks that stand in for the defense: the static model, and declared surrogates."""
        assert self.network is not None
        return (self.network,) if self.surrogate is None else (self.network, self.surrogate)

    @property
    def settled(self) -> Tensor:
        """Which images (B,) an earlier stage broke."""
        names = self.settled_by or ("",) * len(self.labels)
        return torch.tensor([bool(name) for name in names], device=self.labels.device)


Protocol: TypeAlias = Callable[[AttackContext], AttackResult]
"""Finds points for one unit of work."""


def judged_only(points: Tensor, context: AttackContext) -> AttackResult:
    """Return points as a result with no flags of its own: they are judged afresh."""
    broken_by = tuple("" if right else "natural" for right in context.natural.tolist())
    return AttackResult(points, context.natural, broken_by)


def load_protocol(name: str) -> Protocol:
    """Return the function of a protocol: of the catalogue, or of a user, from the working folder.

    Raises :class:`~dentbench.errors.SpecError` for a user's protocol that cannot be imported, or
    whose source has another hash than ``name`` says.
    """
    if is_given(name) and claim_name(name) is None:
        given = importlib.import_module("dentbench.attacks.protocols.given")
        user_protocol: Protocol = given.user_protocol(name)
        return user_protocol
    module, _, function = PROTOCOLS[name].function.partition(":")
    protocol: Protocol = getattr(importlib.import_module(module), function)
    return protocol


def published(context: AttackContext) -> AttackResult:
    """Attack the defense itself; the gradient goes through the last forward only.

    This is the protocol of the paper's tables.
    """
    spec = context.spec
    packed = spec.batches.batching == "autoattack"
    view = BatchView(
        context.defense,
        context.images,
        context.labels,
        ThreatModel.of(spec.attack),
        whole=not packed and not spec.separable,
    )
    return run_attack(
        view,
        spec.attack,
        context.natural,
        context.classes,
        seed_of=lambda name, chunk: derive_seed(spec.seed, name, context.unit, chunk),
        chunk=spec.batches.size,
    )
