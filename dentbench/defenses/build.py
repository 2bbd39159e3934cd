"""From a defense's spec to the defense itself, around a network."""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from dentbench.attacks.base import answered
from dentbench.attacks.rng import same_random_numbers
from dentbench.containment import contained
from dentbench.defenses.catalogue import DEFENSES, needs_batchnorm
from dentbench.defenses.checked import Own, errors_in_words
from dentbench.defenses.copies import copied
from dentbench.defenses.held_adaptations import require_held
from dentbench.defenses.user_defined import imported_twice, load_factory
from dentbench.errors import DentBenchError, ModelError, first_line
from dentbench.identity.imported_state import state_of
from dentbench.spec.defense import DefenseSpec
from dentbench.spec.dent import DentSpec
from dentbench.spec.evaluation import digest
from dentbench.zoo.modes import in_training_mode

_log = logging.getLogger(__name__)


def build(
    spec: DefenseSpec,
    network: nn.Module,
    trial: Tensor,
    given: Mapping[DefenseSpec, Any] | None = None,
    *,
    tried: bool = True,
) -> Any:
    """Return the defense that a spec names: callable, with ``adapt`` and ``predict`` if it can.

    ``network`` maps images (B, C, H, W) to logits (B, classes). A user's defense gets a copy of
    it, and is asked about ``trial``, a few images, if it is to be ``tried``. ``given``: the
    objects that specs stand for.
    Raises :class:`~dentbench.errors.DentBenchError` for a defense that cannot be made or does not
    answer with finite logits.
    """
    if not spec.sha256:  # a user's class may have a built-in's name
        module, _, function = DEFENSES[spec.name].function.partition(":")
        make: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return make(network, **dict(spec.settings))
    with torch.no_grad():
        classes = network(trial).shape[1]
    built = (given or {}).get(spec)
    if built is None:
        made = _made(spec, load_factory(spec), network)
    elif isinstance(built, type):
        made = _made(spec, built, network)
    else:
        made = _copied(built, trial.device)
    defense = Own(spec.name, made, classes)
    defense.is_shared = made is built and not isinstance(built, FunctionType)
    if tried:
        _advise_mode(spec.name, in_training_mode(made))
        _try(defense, trial)
    defense.no_answers.natural = trial
    return defense


def dent_of(spec: DentSpec | DefenseSpec | None) -> DentSpec | None:
    """Return dent's settings where a defense is dent or made of its layers, else None."""
    if not isinstance(spec, DefenseSpec):
        return spec
    return DentSpec(mode="batch") if needs_batchnorm(spec) else None


def identified(
    spec: DentSpec | DefenseSpec,
    network: nn.Module,
    given: Callable[..., Any] | None = None,
) -> DentSpec | DefenseSpec:
    """Return the spec of a user's defense with the state that it holds once it is made.

    Nothing else sees which variables of the environment and files it reads then. ``given``: the
    class that makes it, where it has no name. State that differs each time it is made, as times and
    names of temporary files do, and state without a stable writing say nothing.
    """
    if not (isinstance(spec, DefenseSpec) and spec.sha256 and (spec.source or given)):
        return spec
    try:
        factories = (given, given) if given is not None else imported_twice(spec)
        states = [state_of(_made(spec, factory, network)) for factory in factories]
    except DentBenchError:  # reported when it is attacked
        return spec
    if states[0] != states[1] or not states[0]:
        return spec
    return replace(spec, sha256=digest([spec.sha256, states[0]]))


def _made(spec: DefenseSpec, factory: Callable[..., Any], network: nn.Module) -> Any:
    """Make a defense by its factory, with the same random numbers in every process.

    It is given a network of its own, whose parameters it may follow gradients to.
    """
    try:
        with contained(), same_random_numbers():
            own = copy.deepcopy(network)
            for parameter in own.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            return factory(own, **dict(spec.settings))
    except Exception as error:  # whatever a user's factory raises
        raise ModelError(f"defense {spec.name} cannot be made: {first_line(error)}") from error


def _copied(defense: Any, device: torch.device) -> Any:
    """Return a copy of a defense, so that it stays as it was; itself where it cannot be copied.

    A module's is on the device, and must be.
    """
    try:
        made = copied(defense)
        return made.to(device) if isinstance(made, nn.Module) else made
    except Exception as error:
        if not isinstance(defense, nn.Module):
            return defense
        raise ModelError(f"the defense cannot be copied: {first_line(error)}") from error


@cache
def _advise_mode(name: str, layers: str) -> None:
    """Say once that a defense runs layers as in training, as a module does until it is told not to.

    It may be meant, so it is not changed.
    """
    if layers:
        _log.warning(
            "defense %s is run with its layer %s in training mode; call .eval() on it, where it is "
            "made, if that is not meant",
            *(name, layers),
        )


def _try(defense: Own, images: Tensor) -> None:
    """Ask a defense about a few images, torch's random numbers kept, so that errors come early.

    A copy is asked where possible, so that a memory holds nothing of it.
    """
    devices = [images.device] if images.is_cuda else []
    asked = defense
    with contextlib.suppress(Exception):  # the error depends on its attributes
        asked = copied(defense)
    with errors_in_words(defense.name, images), torch.random.fork_rng(devices), torch.no_grad():
        odd = int((~answered(asked(images))).sum())
        if odd:  # of adversarial points it counts as a wrong answer
            raise ModelError(
                f"defense {defense.name} answered {odd} of {len(images)} images with NaN or "
                "infinite logits; return finite numbers where it diverges, such as "
                "logits.nan_to_num(0, 1e4, -1e4)"
            )
        defense.adopt_path(asked.find_path(images))
        require_held(defense.name, asked, images)
