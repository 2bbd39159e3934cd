"""The names of the attacks and protocols, and their descriptions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack

from dentbench.attacks.catalogue import DEFAULT_PROTOCOLS, PROTOCOLS, attack_label
from dentbench.attacks.protocols.base import load_protocol
from dentbench.errors import SpecError, UnknownNameError
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import AttackSpec

SINGLE = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
PRESETS = ("standard", "plus", "rand")


def test_the_names() -> None:
    assert set(ATTACKS) >= {*PRESETS, "quick", *SINGLE, "none"}
    assert DEFAULT_PROTOCOLS == ("published", "transfer")
    assert set(DEFAULT_PROTOCOLS) <= set(PROTOCOLS)


@pytest.mark.parametrize("version", PRESETS)
def test_presets_run_the_parts_of_autoattack(version: str) -> None:
    suite = AutoAttack(torch.nn.Identity(), version=version)
    assert ATTACKS[version].parts == tuple(suite.attacks_to_run)
    assert ATTACKS[version].version == version
    assert ATTACKS[version].official


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_part_is_an_attack_by_itself(name: str) -> None:
    assert set(ATTACKS[name].parts) <= set(SINGLE)
    if name in SINGLE:
        assert ATTACKS[name].parts == (name,)


def test_only_an_unchanged_preset_is_called_autoattack() -> None:
    for name in ATTACKS:
        label = attack_label(AttackSpec(name=name))
        assert ("not AutoAttack" not in label) == (name in PRESETS), label
    assert attack_label(AttackSpec(name="standard")) == "AutoAttack standard"


@pytest.mark.parametrize("budget", [{"iterations": 50}, {"queries": 100}, {"targets": 3}])
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "none"])
def test_a_changed_budget_is_told(name: str, budget: dict[str, Any]) -> None:
    label = attack_label(AttackSpec(name=name, **budget))
    ((part, value),) = budget.items()
    assert f"{part} {value}" in label and label.endswith("(not AutoAttack)")


def test_an_unknown_attack_is_told_with_its_neighbour() -> None:
    with pytest.raises(UnknownNameError, match="did you mean apgd-ce"):
        ATTACKS["apgd_ce"]
    with pytest.raises(UnknownNameError, match="did you mean transfer"):
        PROTOCOLS["transfert"]


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_every_protocol_can_be_loaded(name: str) -> None:
    assert callable(load_protocol(name))
    assert PROTOCOLS[name].summary


def test_no_attack_has_no_budget() -> None:
    assert ATTACKS["none"].parts == ()
    with pytest.raises(SpecError, match="attack none has no iterations"):
        AttackSpec(name="none", iterations=3)
