"""The choice of how networks are computed, and whole runs that are computed so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dentbench.compute import backend
from dentbench.compute.backend import Engine
from dentbench.errors import SpecError
from dentbench.evaluation.workers.placement import Placement
from tests.compute.networks import network


@pytest.mark.parametrize(
    ("device", "compiling", "captured"),
    [
        ("cpu", "auto", False),
        ("cpu", "off", False),
        ("cuda", "auto", True),
        ("cuda:1", "auto", True),
        ("cuda", "off", False),
    ],
)
def test_what_is_recorded_where(
    device: str, compiling: str, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "is_channels_last_faster", lambda *_: True)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)
    actual = Engine.chosen(network(), torch.device(device), torch.rand(1, 3, 6, 6), compiling)
    assert actual == Engine(channels_last=True, captured=captured)


def test_a_bad_choice_is_refused() -> None:
    with pytest.raises(SpecError, match="compile is 'yes'; allowed: auto, off"):
        Placement(compiling="yes")
