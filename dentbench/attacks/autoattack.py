"""AutoAttack's attacks, through pyautoattack, on one batch or on a whole slice.

The outer loop is AutoAttack's (each attack goes on with the images that are still right), run by
us so that the rows of every query are known, the attack that broke an image is recorded, and the
best point of every survivor is kept. Source: arXiv 2003.01690; Square: arXiv 1912.00049.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

import torch
from pyautoattack import AutoAttack
from torch import Tensor

from dentbench.attacks.attack_events import announce
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.user_attack import UserAttack
from dentbench.attacks.views import BatchView
from dentbench.errors import DataError, ModelError
from dentbench.spec.attack_plans import ATTACKS, AttackPlan, is_users
from dentbench.spec.evaluation import AttackSpec

# Without a handler its warnings would go to the terminal, in the middle of a progress bar.
logging.getLogger("auto-attack").addHandler(logging.NullHandler())
logging.getLogger("auto-attack").propagate = False

# How the attacks drop images within a single run.
_SHRINK: Final = {"fab": "first", "fab-t": "first", "square": "each"}


@dataclass(frozen=True)
class AttackResult:
    """The result of an attack: points (B, C, H, W), its own flags, and the attack that broke each.

    ``points``: the adversarial image where the attack has one, otherwise the point of the highest
    margin. ``robust`` (B,): the attack's own flags. ``broken_by``: one name per image, "" for
    survivors and "natural" for images that were wrong from the start. ``elsewhere`` (B,): which
    images stay right in every other batch that a protocol judged them in; None where it judged no
    other batch. ``witnesses``: further batches (B, C, H, W), in each of which a coupled defense is
    wrong on images that it is right on at ``points``. ``details``: further numbers of the
    protocol, as plain Python values.
    """

    points: Tensor
    robust: Tensor
    broken_by: tuple[str, ...]
    elsewhere: Tensor | None = None
    witnesses: tuple[Tensor, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


def run_attack(
    view: BatchView,
    spec: AttackSpec,
    natural: Tensor,
    classes: int,
    *,
    seed_of: Callable[[str, int], int],
    chunk: int,
) -> AttackResult:
    """Run a named attack on a view's images and return its result.

    ``natural`` (B,): which images are right without an attack; the others are not attacked.
    ``seed_of(attack, number of the chunk)`` seeds each run. At most ``chunk`` images are handed
    to an attack at a time, packed as AutoAttack packs survivors. The caller's random state is
    untouched. Raises :class:`~dentbench.errors.ModelError` for fewer than two classes and
    :class:`~dentbench.errors.DataError` for images too small for Square.
    """
    if classes < 2:
        raise ModelError(f"the model has {classes} class; an attack needs two or more")
    plan, height = ATTACKS[spec.name], view.clean.shape[2]
    if "square" in plan.parts and spec.norm != "Linf" and height < 5:
        raise DataError(f"Square in {spec.norm} needs 5 rows of pixels; the images have {height}")
    robust = natural.clone()
    broken_by = ["" if right else "natural" for right in natural.tolist()]
    device = view.clean.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _seeding_of(device):
        for name in plan.parts:
            for number, rows in enumerate(robust.nonzero().flatten().split(chunk)):
                if not len(rows):
                    continue
                announce(name, int(robust.sum()), len(robust))
                attack = _single_attack(view, plan, spec, name, classes, seed_of(name, number))
                for row in _attack_rows(view, attack, rows):
                    robust[row] = False
                    broken_by[row] = name
    survivors = robust & torch.isfinite(view.best_margin)
    points = torch.where(survivors[:, None, None, None], view.best, view.points)
    return AttackResult(points, robust, tuple(broken_by))


@contextmanager
def _seeding_of(device: torch.device) -> Iterator[None]:
    """Seed CPUs alone, on a CPU, where AutoAttack seeds.

    Otherwise PyTorch queues a call for each kind of GPU, with its stack trace: that takes longer
    than a short answer, and the queue is never emptied.
    """
    if device.type != "cpu":
        yield
        return
    with (
        patch.object(torch.random, "manual_seed", torch.default_generator.manual_seed),
        patch.object(torch.cuda.random, "manual_seed", lambda seed: None),
    ):
        yield


def _attack_rows(view: BatchView, attack: Any, rows: Tensor) -> list[int]:
    """Attack the images of ``rows``, put points of broken images in place and return their rows."""
    view.focus(rows)
    perturbed = attack.perturb(view.clean[rows].clone(), view.labels[rows].clone()).detach()
    view.focus(rows)  # the attack may have gone on with fewer
    with torch.no_grad():
        wrong = view(perturbed).max(1)[1] != view.labels[rows]
    view.points[rows[wrong]] = view.threat.project(perturbed, view.clean[rows])[wrong]
    broken: list[int] = rows[wrong].tolist()
    return broken


def _single_attack(
    view: BatchView, plan: AttackPlan, spec: AttackSpec, name: str, classes: int, seed: int
) -> Any:
    """Return one of AutoAttack's attack objects, set up as the plan's AutoAttack version has it."""
    threat: ThreatModel = view.threat
    if is_users(name):
        return UserAttack(name, view, threat, seed)
    suite = AutoAttack(
        view,
        norm=threat.norm,
        eps=threat.eps,
        seed=seed,
        device=view.clean.device,
        version=plan.version,
    )
    attack = {
        "apgd-ce": suite.apgd,
        "apgd-dlr": suite.apgd,
        "apgd-t": suite.apgd_targeted,
        "fab": suite.fab,
        "fab-t": suite.fab,
        "square": suite.square,
    }[name]
    attack.seed = seed
    if name in ("apgd-ce", "apgd-dlr"):
        attack.loss = name.removeprefix("apgd-")
    if name in ("fab", "fab-t"):
        attack.targeted = name == "fab-t"
    if name == "fab-t":
        attack.n_restarts = 1  # as AutoAttack sets it just before it runs this attack
    _set_budget(attack, plan, spec, name, classes)
    _use_plain_margin(attack, classes)
    _declare_runs(attack, view, _SHRINK.get(name, "never"))
    return attack


def _set_budget(attack: Any, plan: AttackPlan, spec: AttackSpec, name: str, classes: int) -> None:
    iterations = spec.iterations or plan.iterations
    if iterations is not None and name.startswith("apgd"):
        attack.n_iter = attack.n_iter_orig = iterations
        attack.n_iter_2 = max(int(0.22 * iterations), 1)
        attack.n_iter_min = max(int(0.06 * iterations), 1)
        attack.size_decr = max(int(0.03 * iterations), 1)
    elif iterations is not None and name.startswith("fab"):
        attack.n_iter = iterations
    if spec.queries is not None and name == "square":
        attack.n_queries = spec.queries
    if name in ("apgd-t", "fab-t"):
        targets = spec.targets or plan.targets or attack.n_target_classes
        attack.n_target_classes = min(targets, classes - 1)


def _use_plain_margin(attack: Any, classes: int) -> None:
    """Replace DLR, which divides by the third and fourth logit, where there are too few classes.

    Its numerator, the plain margin, has the same sign and direction of gradient.
    """
    if classes < 3:
        attack.dlr_loss = lambda logits, y: _margin_to(logits, y, 1 - y)
    if classes < 4:
        attack.dlr_loss_targeted = lambda logits, y: _margin_to(logits, y, attack.y_target)


def _margin_to(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, target] - logits[rows, labels]


def _declare_runs(attack: Any, view: BatchView, shrink: str) -> None:
    """Declare to the view which images each single run of ``attack`` is on."""
    inner = attack.attack_single_run

    def attack_single_run(x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Any:
        with view.single_run(x, shrink):
            return inner(x, y, *args, **kwargs)

    attack.attack_single_run = attack_single_run
