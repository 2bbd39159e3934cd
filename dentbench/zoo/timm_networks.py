"""Networks of the library timm, for checkpoint files."""

from __future__ import annotations

import importlib
from typing import Any, Final

import torch
from torch import nn

from dentbench.errors import ModelError, first_line

TIMM: Final = "timm:"
"""How the name of a network of timm begins."""


def from_timm(text: str) -> nn.Module:
    """Return the network that "timm:NAME" or "timm:NAME,SETTING=VALUE,..." names, without weights.

    Settings are those of ``timm.create_model``, such as num_classes=10; torch's random state is
    kept. Raises :class:`~dentbench.errors.ModelError` where timm is not installed or refuses.
    """
    name, *settings = text.removeprefix(TIMM).split(",")
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(f"{text} needs the package timm, pip install timm ({error})") from error
    try:
        values = dict(_setting(setting) for setting in settings)
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = timm.create_model(name, pretrained=False, **values)
    except Exception as error:  # timm raises many kinds
        reason = first_line(error)
        raise ModelError(f"timm cannot make {name!r} ({reason}); see timm.list_models()") from error
    return network


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name.isidentifier() and equals):
        raise ValueError(f"write settings as SETTING=VALUE, not {text!r}")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, {"true": True, "false": False}.get(value.lower(), value)
