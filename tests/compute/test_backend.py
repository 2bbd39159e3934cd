"""The choice of how networks are computed, and whole runs that are computed so."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from dentbench import DentSpec
from dentbench.compute import backend
from dentbench.compute.backend import Engine
from dentbench.compute.cpu_kernels import c_library
from dentbench.compute.torch_compile import Compiled
from dentbench.errors import SpecError
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.placement import Placement
from dentbench.evaluation.runner import Evaluation
from dentbench.records.outcome import Record
from tests.compute.networks import attacked_network, network


@pytest.mark.parametrize(
    ("device", "compiling", "compiled", "captured"),
    [
        ("cpu", "auto", False, False),
        ("cpu", "on", True, False),
        ("cpu", "off", False, False),
        ("cuda", "auto", False, True),
        ("cuda:1", "on", True, True),
        ("cuda", "off", False, False),
    ],
)
def test_what_is_compiled_where(
    device: str, compiling: str, compiled: bool, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "is_channels_last_faster", lambda *_: True)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)
    found = Engine.chosen(network(), torch.device(device), torch.rand(1, 3, 6, 6), compiling)
    assert found == Engine(channels_last=True, compiled=compiled, captured=captured)


def test_code_in_c_is_kept_in_the_cache_and_only_there(tmp_path: Path) -> None:
    device, images = torch.device("cpu"), torch.rand(1, 3, 6, 6)
    engine = Engine.chosen(network(), device, images, cache=tmp_path)
    source = tmp_path / "one.c"
    source.write_text("int one(void) { return 1; }\n")
    engine.prepare(network(), device, images)
    if c_library.compiler():
        assert c_library.library(source) is not None
        assert [path.stem[:4] for path in (tmp_path / "native").glob("*.so")] == ["one-"]
    Engine.chosen(network(), device, images).prepare(network(), device, images)
    assert c_library.library(source) is None


def run(results: Path, compiling: str) -> tuple[Evaluation, list[Record]]:
    """Run dent against a short attack on images that the network is right about."""
    subject, static = attacked_network(8, iterations=3)
    evaluation = Evaluation(
        subject,
        RunOptions(results=results, placement=Placement(compiling=compiling)),
    )
    defended = replace(static, defense=DentSpec(steps=2, loss="entropy"))
    return evaluation, evaluation.run([static, defended], ["published", "transfer", "unrolled"])


def test_a_compiled_run_finds_what_a_plain_one_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    evaluation, found = run(tmp_path / "on", "on")
    plain, right = run(tmp_path / "off", "off")
    assert isinstance(evaluation.worker.network.network, Compiled)
    assert not isinstance(plain.worker.network.network, Compiled)
    for one, other in zip(found, right, strict=True):
        assert one.protocol_counts == other.protocol_counts
        assert (one.forwards, one.backwards) == (other.forwards, other.backwards)


def test_a_bad_choice_is_refused() -> None:
    with pytest.raises(SpecError, match="compile is 'yes'; allowed: auto, on, off"):
        Placement(compiling="yes")
