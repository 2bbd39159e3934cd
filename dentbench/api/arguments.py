"""Turn the arguments of ``evaluate`` into specs and data, or refuse them in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dentbench.attacks.user_attack import attack_name_of
from dentbench.defenses.user_defined import spec_of_object
from dentbench.errors import DataError, ModelError, SpecError, first_line
from dentbench.evaluation.schedule import Schedule
from dentbench.spec.attack_plans import is_users
from dentbench.spec.evaluation import AttackSpec, DefenseSpec, DentSpec, exact_eps, format_eps
from dentbench.study.choices import choose_attack
from dentbench.study.defenses import choose_defenses
from dentbench.study.limits import parse_duration, parse_passes
from dentbench.study.parsing import Normalization
from dentbench.zoo.datasets import own_name
from dentbench.zoo.images.arrays import Dataset, checked
from dentbench.zoo.images.datafiles import RawData


def schedule_of(until: Any, time_limit: Any, pass_limit: Any) -> Schedule:
    """Return when a run ends early, by the arguments of ``evaluate``."""
    require_kind("until", until, str, optional=True)
    seconds = None if time_limit is None else parse_duration(str(time_limit))
    passes = None if pass_limit is None else parse_passes(str(plain_number(pass_limit)))
    return Schedule(until=until or "", time_limit=seconds, pass_limit=passes)


def require_kind(name: str, value: Any, *kinds: type, optional: bool = False) -> Any:
    """Return a value, or raise SpecError where it is not of one of some types."""
    if not (isinstance(value, kinds) or (optional and value is None)):
        words = " or ".join(_IN_WORDS.get(kind, f"a {kind.__name__}") for kind in kinds)
        raise SpecError(f"{name} is {value!r}; give {words}")
    return value


_IN_WORDS: Final[Mapping[type, str]] = {
    str: "a text",
    Path: "a path",
    AttackSpec: "an AttackSpec",
}


def plain_number(value: Any) -> Any:
    """Return a number of NumPy or torch as Python's; anything else as it is."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        with suppress(ValueError, RuntimeError):  # several numbers, which are refused
            return value.item()
    return value


def protocols_listed(protocols: Any) -> Sequence[str | Callable[..., Any]]:
    """Yield protocols: of a text, a function, or several of them."""
    if protocols is None:
        return ()
    if isinstance(protocols, str):
        return protocols.replace(",", " ").split()
    listed = [protocols] if callable(protocols) else protocols
    if not isinstance(listed, Sequence) or not all(
        isinstance(p, str) or callable(p) for p in listed
    ):
        raise SpecError(f'protocols is {protocols!r}; give names, functions or "all"')
    return list(listed)


def attack_of(
    attack: AttackSpec | str | None, eps: Fraction | float | str | None, norm: str | None
) -> AttackSpec:
    """Return the attack, AutoAttack standard by default; a user's gets the hash of its source."""
    if isinstance(attack, AttackSpec):
        if eps is not None or norm is not None:
            raise SpecError("eps or norm is given beside an AttackSpec, which has its own")
        chosen = attack
    else:
        require_kind("attack", attack, AttackSpec, str, optional=True)
        require_kind("norm", norm, str, int, float, optional=True)
        norm = None if norm is None else str(norm)
        radius = None if eps is None else format_eps(exact_eps(eps))
        chosen = choose_attack(None, name=attack or "standard", norm=norm, eps=radius)
    return replace(chosen, name=attack_name_of(chosen.name)) if is_users(chosen.name) else chosen


def protocol_name(protocol: str | Callable[..., Any]) -> str:
    """Return a protocol's name; a function is known by its module, for other processes too."""
    if isinstance(protocol, str):
        return protocol
    module, name = getattr(protocol, "__module__", ""), getattr(protocol, "__qualname__", "")
    if not module or module == "__main__" or not name or "<" in name:
        raise SpecError(
            f"protocol {name or protocol!r} is no function of a module's top level; put it into a "
            "file and hand it in from there"
        )
    return f"{module}:{name}"


def defense_spec_of(defense: Any) -> DentSpec | DefenseSpec:
    """Return a defense's spec: itself, of a name, or of an object."""
    if isinstance(defense, DentSpec | DefenseSpec):
        return defense
    if defense is not None and not isinstance(defense, str):
        is_spec = isinstance(defense, type) and issubclass(defense, DentSpec | DefenseSpec)
        if is_spec or not (callable(defense) or hasattr(defense, "predict")):
            raise SpecError(
                f"defense is {defense!r}; give a name, a DentSpec(), an object that maps images to "
                "logits or has adapt and predict, or a class that makes one of the network"
            )
        return spec_of_object(defense)
    ((spec, _),) = choose_defenses([defense or "dent"], None, {}, None)
    if spec is None:
        raise SpecError(
            f"defense is {defense!r}; name a defense, for the static model is always run"
        )
    return spec


def normalization_of(
    normalize: tuple[Sequence[float], Sequence[float]] | None,
) -> Normalization | None:
    """Return mean and standard deviation as tuples of numbers; tensors and lists will do."""
    if normalize is None:
        return None
    try:
        mean, std = (tuple(float(value) for value in part) for part in normalize)
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"normalize is {normalize!r}; give the mean and the standard deviation of each channel"
        ) from error
    return mean, std


def dataset_of(images: Any, labels: Any, name: str) -> Dataset:
    """Return tensors, arrays or lists as a data set, checked as a file's contents are."""
    for kind, recipe in _RECIPES.items():
        if isinstance(images, kind):
            raise DataError(
                f"images is a {type(images).__name__}; hand in its images and labels themselves: "
                f"images, labels = {recipe}"
            )
    if labels is None:
        raise DataError("labels are missing; call evaluate(model, images, labels)")
    raw = RawData(images=_array(images, "images"), labels=_array(labels, "labels"))
    return checked(raw, "the data given", own_name(name))


_RECIPES: Final[Mapping[type, str]] = {
    DataLoader: "map(torch.cat, zip(*loader))",
    torch.utils.data.Dataset: (
        "next(iter(torch.utils.data.DataLoader(dataset, batch_size=len(dataset))))"
    ),
}
"""How images and labels come out of what holds both."""


def _array(values: Any, name: str) -> Any:
    """Return a tensor, an array, nested lists or a list of tensors as a NumPy array."""
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            values = torch.stack([torch.as_tensor(value).detach() for value in values])
        if not isinstance(values, Tensor):
            array = np.asarray(values)
            if not array.ndim:  # NumPy takes values that it does not understand for a single object
                raise TypeError(f"they are of type {type(values).__name__}")
            return array
        plain = values.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the {name} given are no tensor, NumPy array or list of equal sizes "
            f"({_sizes(values) or first_line(error)})"
        ) from error


def _sizes(values: Any) -> str:
    """Say which sizes the parts of a list have, where they have several."""
    if not isinstance(values, list | tuple):
        return ""
    with suppress(Exception):  # parts may be anything
        shapes = list(dict.fromkeys(tuple(np.shape(value)) for value in values))
        if len(shapes) > 1:
            return f"their shapes are {', '.join(map(str, shapes[:3]))}"
    return ""


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of a model; raise ModelError for any other object or a copy that fails."""
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module; put a function into "
            "the forward of one"
        )
    try:
        with torch.no_grad():  # else the tensors of a ScriptModule's copy are computed ones
            return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(f"the model cannot be copied: {error}") from error
