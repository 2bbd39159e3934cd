"""Find a user's code in the place of a library's, or run beside each of its layers."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, Final

import torch
import torch.nn.functional
from torch._library.custom_ops import OPDEFS, CustomOpDef
from torch.nn.modules import module as modules
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from dentbench.paths import is_installed_file

_GLOBAL_HOOKS: Final = (
    *("_global_forward_pre_hooks", "_global_forward_hooks"),
    *("_global_backward_pre_hooks", "_global_backward_hooks"),
)

_OF_NETWORKS: Final = frozenset({"torchvision", "timm", "robustbench", "einops"})
"""Libraries of networks, whose modules call their own functions."""

_INSIDE: Final[Mapping[Any, Callable[[Any], Any]]] = MappingProxyType(
    {
        functools.partial: lambda held: held.func,
        functools.partialmethod: lambda held: held.func,
        functools._lru_cache_wrapper: lambda held: held.__wrapped__,
        MethodType: lambda held: held.__func__,
        staticmethod: lambda held: held.__func__,
        classmethod: lambda held: held.__func__,
        property: lambda held: held.fget,
    }
)
"""The function that is inside another callable."""


def module_of(held: Any) -> str:
    """Return the name of the module that a callable's code is of; "" of any other value.

    A function that passes for another, by ``functools.wraps``, is of the module it is written in.
    """
    inner = next((_INSIDE[kind](held) for kind in _INSIDE if isinstance(held, kind)), None)
    if inner is not None:
        return module_of(inner)
    if isinstance(held, FunctionType):
        return str(held.__globals__.get("__name__") or held.__module__ or "")
    if isinstance(held, type):
        return held.__module__
    return type(held).__module__ if callable(held) else ""


def patchable() -> Iterator[tuple[str, Any]]:
    """Yield functions of torch and Python that networks call, by name, and hooks of every layer."""
    layers = [kind for kind in vars(torch.nn).values() if isinstance(kind, type)]
    owners: list[Any] = [builtins, torch, torch.nn.functional, torch.Tensor, *layers]
    owners += [torch.linalg, torch.special, torch.fft, torch.nn.init]
    for owner in owners:
        for name, held in list(vars(owner).items()):
            yield f"{owner.__name__}.{name}", held
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] in _OF_NETWORKS and isinstance(module, ModuleType):
            for inner, held in list(vars(module).items()):
                if isinstance(held, FunctionType):
                    yield f"{name}.{inner}", held
    for kind in _GLOBAL_HOOKS:
        for number, hook in enumerate(vars(modules)[kind].values()):
            yield f"{kind}[{number}]", hook


def modes() -> Iterator[Any]:
    """Yield the objects that torch shows each call of its functions to."""
    yield from _get_current_function_mode_stack()
    yield from _get_current_dispatch_mode_stack()


def registering() -> Iterator[tuple[ModuleType, bool]]:
    """Yield loaded modules that may register operators, whose functions torch does not show.

    Beside each, whether it may do so for torch's own operators, which all networks call.
    """
    for module in [*sys.modules.values()]:
        source = _source(getattr(module, "__file__", None) or "")
        if "torch.library" in source or "Library(" in source:
            yield module, "aten" in source


def _source(file: str) -> str:
    """Return the source of a module of a user, "" of any other."""
    if not file.endswith(".py") or is_installed_file(file):
        return ""
    try:
        seen = Path(file).stat()
    except OSError:
        return ""
    return _read(file, seen.st_mtime_ns, seen.st_size)


@functools.lru_cache(maxsize=1 << 12)
def _read(file: str, changed: int, size: int) -> str:
    return Path(file).read_text(errors="replace")


def custom_operators(names: Collection[str]) -> list[CustomOpDef]:
    """Return the operators registered in Python that code with such names may call."""
    if "ops" not in names:
        return []
    return [op for name, op in sorted(OPDEFS.items()) if set(name.split("::")) <= {*names}]
