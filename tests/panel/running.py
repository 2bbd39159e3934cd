"""Evaluations of planted defenses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dentbench.api import Evaluated, evaluate
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.checks import failed
from dentbench.spec.evaluation import AttackSpec, ProtocolSpec
from tests.panel.table import Setting

PLAIN = Setting()


SHORT = ProtocolSpec(rounds=2, queries=30, fractions=(0.05,))


def run(
    defense: Any,
    results: Path,
    setting: Setting = PLAIN,
    protocols: tuple[str, ...] = tuple(PROTOCOLS),
    settings: ProtocolSpec | None = None,
    until: str | None = None,
) -> Evaluated:
    """Evaluate a planted defense by every protocol, with short budgets if the attack is short."""
    network, images, labels = setting.data()
    attack = AttackSpec(
        name=setting.attack, norm=setting.norm, eps=setting.eps, iterations=setting.iterations
    )
    short = SHORT if setting.attack == "quick" else ProtocolSpec()
    return evaluate(
        network,
        images[: setting.count],
        labels[: setting.count],
        defense=defense,
        attack=attack,
        protocols=protocols,
        protocol_settings=settings or short,
        batch_size=setting.batch,
        precision=setting.precision,
        until=until,
        results=results,
        progress=None,
        data_name="planted",
    )


def said_of(result: Evaluated) -> str:
    """Return all that a failure should show."""
    record = result.defended
    failures = {check.name: check.sentence for check in failed(record.checks)}
    return (
        f"{result.verdict}\nby protocol {record.by_protocol}\nworst case {record.robust_correct}, "
        f"static {result.static.robust_correct}\nfailed: {json.dumps(failures, indent=1)}"
    )
