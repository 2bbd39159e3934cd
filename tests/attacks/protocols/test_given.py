"""Protocols of a user: named, hashed, checked, and judged as any other."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

import dentbench
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.protocol_cards import is_given
from dentbench.attacks.protocols.base import load_protocol
from dentbench.attacks.protocols.given import name_of
from dentbench.errors import ModelError, SpecError
from dentbench.spec.evaluation import AttackSpec
from tests.reference import tiny_network

SOURCE = '''
import torch
FAR = 1.0
def far(situation):
    """As far as it goes, to be projected by whoever judges."""
    return situation.images + FAR * situation.images.new_ones(situation.images.shape)
def short(situation):
    return situation.images[:1]
def text(situation):
    return "points"
def nan(situation):
    return situation.images * float("nan")
def raising(situation):
    raise KeyError("a key")
number = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "given_protocols.py"
    path.write_text(SOURCE)
    return path


def run(results: Path, *protocols: Any) -> Any:
    model = tiny_network().eval()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)
    return dentbench.evaluate(
        model,
        images,
        labels,
        defense="norm",
        attack=AttackSpec(name="apgd-ce", eps=Fraction(1, 50), iterations=1),
        protocols=protocols,
        results=results,
        progress="none",
    ).defended


def test_it_is_projected_judged_and_kept(module: Path, tmp_path: Path) -> None:
    record = run(tmp_path / "results", "given_protocols:far", "published")
    name = name_of("given_protocols:far")
    assert is_given(name) and name in PROTOCOLS
    assert set(record.protocol_counts) == {"published", name}
    again = run(tmp_path / "results", "published")
    assert again.key == record.key and again.protocol_counts == record.protocol_counts
    module.write_text(SOURCE.replace("FAR = 1.0", "FAR = -1.0"))
    assert name_of("given_protocols:far") != name, "another source is another protocol"
    with pytest.raises(SpecError, match="was changed"):
        load_protocol(name)


def test_a_bad_one_is_one_sentence(module: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not points of shape"):
        run(tmp_path / "results", "given_protocols:short")


def test_a_function_is_known_by_its_module() -> None:
    with pytest.raises(SpecError, match="put it into a file"):
        run(Path("unused"), lambda context: context.images)


def test_its_card_needs_no_import() -> None:
    card = PROTOCOLS["not_there:function@0123456789ab"]
    assert "0123456789ab" in card.summary and not card.after
    assert json.dumps(card.summary)
